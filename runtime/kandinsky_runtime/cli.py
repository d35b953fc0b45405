"""`k22`: arguments → one call."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky_runtime.cli_support import Parser, add_common_options, run

if TYPE_CHECKING:
    from kandinsky_runtime.output import InpaintOutput
    from kandinsky_runtime.pipeline import InpaintPipeline

# Named here, so that --help need not load the modules that know them.
ENGINES = "openvino, onnxruntime, paddle"
SCHEDULERS = "ddpm, ddim, dpm++, dpm++karras, dpm++sde, dpm++sde-karras, unipc, euler, euler-a, unclip"

_EPILOG = """\
examples:
  k22 inspect bundle
  k22 inpaint bundle --image cat.png --mask mask.png --image-embeds hat.npz --out cat_with_hat.png
  k22 bench bundle --engine openvino --engine onnxruntime
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 the work failed, 2 the arguments are wrong, 130 interrupted.

    Raises:
        SystemExit: `--help`, or the arguments cannot be parsed.
    """
    return run(_parser(), argv, distribution="kandinsky22-deploy")


def _parser() -> Parser:
    parser = Parser(
        prog="k22",
        description="Run Kandinsky 2.2 inpainting from a bundle that k22-export made.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_inpaint(commands)
    _add_bench(commands)
    inspect = commands.add_parser(
        "inspect",
        help="what is in a bundle, and what this machine can run of it",
        description="Check a bundle's files against its manifest and describe it.",
        epilog="example: k22 inspect bundle --json",
    )
    inspect.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    add_common_options(inspect)
    inspect.set_defaults(run=_inspect)
    return parser


def _add_inpaint(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "inpaint",
        help="repaint the white area of a mask",
        description="Repaint the white area of a mask. Pixels outside it stay as they are.",
        epilog="examples:\n"
        "  k22 inpaint bundle --image cat.png --mask mask.png --image-embeds hat.npz --out cat_with_hat.png\n"
        "  k22 inpaint bundle --image cat.png --mask mask.png --image-embeds hat.npz --out out.png \\\n"
        "      --height 768 --width 768 --num-inference-steps 50 --seed 7 --num-images 4 --json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    needed = parser.add_argument_group("inputs and output")
    needed.add_argument("--image", type=Path, required=True, metavar="F", help="the picture: PNG, JPEG, WebP, …")
    needed.add_argument("--mask", type=Path, required=True, metavar="F", help="white is repainted, black is kept")
    needed.add_argument(
        "--invert-mask", action="store_true", help="black is repainted, as diffusers before 0.19 had it"
    )
    needed.add_argument(
        "--image-embeds",
        type=Path,
        required=True,
        metavar="F",
        help=".npz with image_embeds and negative_image_embeds, or .npy with the former",
    )
    needed.add_argument("--negative-image-embeds", type=Path, metavar="F", help="the negative embeddings' own file")
    needed.add_argument(
        "--out", type=Path, required=True, metavar="F", help="the result; several get -1, -2, … before the suffix"
    )
    needed.add_argument(
        "--composite",
        choices=("paste", "none"),
        default="paste",
        help="paste keeps the pixels outside the mask bit for bit (default); none writes the decoder's picture",
    )
    loop = parser.add_argument_group("sampling")
    loop.add_argument("--height", type=int, metavar="PX", help="of the result, 64 and more (default: the picture's)")
    loop.add_argument("--width", type=int, metavar="PX", help="of the result, 64 and more (default: the picture's)")
    loop.add_argument(
        "--num-inference-steps", type=int, default=100, metavar="N", help="denoising steps (default: 100)"
    )
    loop.add_argument("--guidance-scale", type=float, default=4.0, metavar="W", help="1 turns it off (default: 4)")
    loop.add_argument("--scheduler", metavar="NAME", help=f"{SCHEDULERS} (default: the checkpoint's)")
    loop.add_argument("--seed", type=int, metavar="N", help="of the noise (default: drawn, and told)")
    loop.add_argument("--num-images", type=int, default=1, metavar="N", help="results, with seeds from --seed on")
    loop.add_argument(
        "--noise", choices=("torch", "numpy"), help="torch (default): the numbers of torch.Generator('cpu')"
    )
    loop.add_argument("--record-noise", type=Path, metavar="F", help="write every draw of the noise to an .npz")
    loop.add_argument("--replay-noise", type=Path, metavar="F", help="take the noise from such a file")
    engine = parser.add_argument_group("engine")
    engine.add_argument("--engine", default="auto", metavar="NAME", help=f"{ENGINES}, or auto (default)")
    engine.add_argument("--precision", metavar="P", help="fp32, fp16 or bf16 (default: the engine's)")
    engine.add_argument("--device", default="cpu", metavar="NAME", help="as the engine names it (default: cpu)")
    engine.add_argument("--threads", type=int, metavar="N", help="within one operation (default: every core)")
    add_common_options(parser)
    parser.set_defaults(run=_inpaint)


def _add_bench(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "bench",
        help="how fast this machine runs a bundle",
        description="Time every graph and whole runs with made-up inputs: UNet on a guidance batch of 2, MoVQ encode"
        " and decode,\nN steps of inpainting, a cold start in a fresh process. Several engines take turns in every"
        " round.",
        epilog="examples:\n"
        "  k22 bench bundle\n"
        "  k22 bench bundle --engine openvino --engine onnxruntime --precision fp32 --repeats 10 --json times.json\n"
        "  k22 bench bundle --height 768 --width 768 --steps 50 --plot times.png",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    work = parser.add_argument_group("what is run")
    work.add_argument("--height", type=int, default=512, metavar="PX", help="of the picture (default: 512)")
    work.add_argument("--width", type=int, default=512, metavar="PX", help="of the picture (default: 512)")
    work.add_argument("--steps", type=int, default=10, metavar="N", help="of a whole run (default: 10)")
    work.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds that count (default: 5)")
    work.add_argument("--warmup", type=int, default=1, metavar="N", help="rounds before them (default: 1)")
    work.add_argument("--no-cold-start", action="store_true", help="start no fresh process for each engine")
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        action="append",
        metavar="NAME",
        help=f"{ENGINES}, or auto (default); several times for a comparison with the first",
    )
    engine.add_argument("--precision", metavar="P", help="fp32, fp16 or bf16 (default: each engine's)")
    engine.add_argument("--device", default="cpu", metavar="NAME", help="as the engine names it (default: cpu)")
    engine.add_argument("--threads", type=int, metavar="N", help="within one operation (default: every core)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="F", help="write everything that was measured to a JSON file")
    output.add_argument("--plot", type=Path, metavar="F", help="draw it: .png, .svg or .pdf; needs matplotlib")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    parser.set_defaults(run=_bench)


def _inpaint(args: argparse.Namespace) -> int:
    from kandinsky_runtime.embeds import read_embeds
    from kandinsky_runtime.image import check_output_path, read_image, save_image
    from kandinsky_runtime.mask import read_mask
    from kandinsky_runtime.noise import ReplayNoise
    from kandinsky_runtime.pipeline import InpaintPipeline

    start = time.perf_counter()
    check_output_path(args.out)
    _check_options(args)
    embeds, negative = read_embeds(args.image_embeds, args.negative_image_embeds)
    paths = _output_paths(args.out, len(embeds) * args.num_images)
    for path in paths:
        check_output_path(path)
    _check_overwriting(args, paths)
    image, mask = read_image(args.image), read_mask(args.mask)
    noise = ReplayNoise(args.replay_noise) if args.replay_noise else args.noise or "torch"
    with InpaintPipeline.load(
        args.bundle, args.engine, args.precision, args.device, args.threads, progress=not args.quiet
    ) as pipeline:
        output = pipeline(
            image,
            mask,
            image_embeds=embeds,
            negative_image_embeds=negative,
            height=args.height,
            width=args.width,
            num_inference_steps=args.num_inference_steps,
            guidance_scale=args.guidance_scale,
            scheduler=args.scheduler,
            num_images_per_prompt=args.num_images,
            seed=args.seed,
            noise=noise,
            record_noise=args.record_noise,
            composite=args.composite,
            invert_mask=args.invert_mask,
            progress=not args.quiet,
        )
    for path, picture in zip(paths, output.images, strict=True):
        save_image(picture, path)
    _report(args, paths, pipeline, output, time.perf_counter() - start)
    return 0


def _report(
    args: argparse.Namespace, paths: list[Path], pipeline: InpaintPipeline, output: InpaintOutput, total: float
) -> None:
    if args.json:
        seconds = {**output.seconds, "total": total}
        result = {
            "images": [str(path) for path in paths],
            "seeds": list(output.seeds),
            "engine": pipeline.selection.engine.name,
            "precision": pipeline.selection.precision,
            "notes": list(output.notes),
            "seconds": {part: round(value, 4) for part, value in seconds.items()},
        }
        sys.stdout.write(json.dumps(result, indent=1) + "\n")
    else:
        for path, seed in zip(paths, output.seeds, strict=True):
            sys.stdout.write(f"wrote {path}" + (f" (seed {seed})" if seed is not None else "") + "\n")


def _check_options(args: argparse.Namespace) -> None:
    """What can be found wrong before anything is read."""
    from kandinsky_runtime.checks import whole_number
    from kandinsky_runtime.errors import UsageError
    from kandinsky_runtime.inputs import MAX_RESULTS

    whole_number("--num-images", args.num_images, 1, MAX_RESULTS)
    if args.replay_noise and (args.seed is not None or args.noise):
        raise UsageError("--replay-noise takes the place of --seed and --noise; give one of them")


def _check_overwriting(args: argparse.Namespace, paths: list[Path]) -> None:
    """Refuse to write where an input lies, or two things into one file."""
    from kandinsky_runtime.errors import UsageError

    taken: dict[str, str] = {}
    for option in ("image", "mask", "image_embeds", "negative_image_embeds", "replay_noise", "record_noise"):
        if (path := getattr(args, option)) is None:
            continue
        name = f"--{option.replace('_', '-')}"
        if option == "record_noise" and (other := taken.get(os.path.realpath(path))):
            raise UsageError(f"{name} {path} would replace the file of {other}; choose another path")
        taken[os.path.realpath(path)] = name
    for path in paths:
        if other := taken.get(os.path.realpath(path)):
            raise UsageError(f"--out {path} would replace the file of {other}; choose another path")


def _output_paths(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]


def _bench(args: argparse.Namespace) -> int:
    from kandinsky_runtime import bench, bench_report
    from kandinsky_runtime.bundle import Bundle

    bench_report.check_paths(args.json, args.plot)
    plan = bench.Plan(
        engines=tuple(args.engine or bench.Plan.engines),
        precision=args.precision,
        device=args.device,
        threads=args.threads,
        height=args.height,
        width=args.width,
        steps=args.steps,
        repeats=args.repeats,
        warmup=args.warmup,
        cold_start=not args.no_cold_start,
    )
    data = bench_report.as_data(bench.run(Bundle.open(args.bundle), plan, progress=not args.quiet))
    if args.json:
        bench_report.save_text(json.dumps(data, indent=1) + "\n", args.json)
    if args.plot:
        bench_report.save_plot(data, args.plot)
    sys.stdout.write(bench_report.as_text(data) + "\n")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle import Bundle
    from kandinsky_runtime.inspection import as_text, describe

    bundle = Bundle.open(args.bundle)
    bundle.check_content(progress=not args.quiet)
    data = describe(bundle)
    sys.stdout.write((json.dumps(data, indent=1) if args.json else as_text(data)) + "\n")
    return 0

"""`k22 inpaint`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kandinsky_runtime.cli.options import SCHEDULERS, add_bundle, add_engine_options
from kandinsky_runtime.cli_support import Parser, add_common_options

if TYPE_CHECKING:
    from kandinsky_runtime.output import InpaintOutput
    from kandinsky_runtime.pipeline import InpaintPipeline


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inpaint",
        help="repaint the white area of a mask",
        description="Repaint the white area of a mask. Pixels outside it stay as they are.",
        epilog="examples:\n"
        "  k22 inpaint bundle --image cat.png --mask mask.png --image-embeds hat.npz --out cat_with_hat.png\n"
        "  k22 inpaint bundle --image cat.png --mask mask.png --image-embeds hat.npz --out out.png \\\n"
        "      --height 768 --width 768 --num-inference-steps 50 --seed 7 --num-images 4 --json",
    )
    add_bundle(parser)
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
        "--inpaint-area",
        choices=("picture", "mask"),
        default="picture",
        help="mask: work on a crop around the mask and put it back; --height and --width are then the size to work at"
        " (default: the crop's own)",
    )
    loop.add_argument(
        "--padding-mask-crop", type=int, metavar="PX", help="around the mask, for --inpaint-area mask (default: 32)"
    )
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
    add_engine_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=_inpaint)


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
        args.bundle,
        args.engine,
        args.precision,
        args.device,
        args.threads,
        low_memory=args.low_memory,
        tiles=args.tiles,
        progress=not args.quiet,
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
            inpaint_area=args.inpaint_area,
            padding_mask_crop=args.padding_mask_crop,
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
    from kandinsky_runtime.request import MAX_RESULTS

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

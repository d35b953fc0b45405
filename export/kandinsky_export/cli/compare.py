"""`k22-export compare`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kandinsky_export.cli.options import write_report
from kandinsky_runtime.cli_support import Parser, add_common_options, path_argument
from kandinsky_runtime.errors import FaultList, UsageError

if TYPE_CHECKING:
    from kandinsky_export.comparison.cases import Pictures
    from kandinsky_runtime.bundle.bundle import Bundle

# Both are repeated here, so that --help loads nothing; tests compare them.
KEYS = (
    "engine, precision, device, threads, tiles, low_memory, scheduler, steps, guidance_scale, guidance_interval,"
    " prior_steps, prior_guidance_scale"
)
MAX_CASES = 100_000
_SAMPLE_SIDE = 512


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="measure what a precision, a solver or fewer steps cost a bundle's pictures",
        description="Run the same prompts and the same noise with a baseline and with other settings, and measure how"
        " far the results are from the baseline's: latents after each step, pictures in the mask, and the mask's edge."
        f" A setting, SPEC, is written KEY=VALUE,KEY=VALUE with the keys {KEYS}; what it leaves out has its default.",
        epilog="examples:\n"
        "  k22-export compare bundle --baseline engine=openvino,precision=fp32,steps=50"
        " --candidate engine=openvino,precision=bf16,steps=50 --prompts prompts.txt\n"
        "  k22-export compare bundle --baseline scheduler=ddpm,steps=50 --candidate scheduler=dpm++,steps=25 \\\n"
        "      --candidate scheduler=dpm++,steps=15 --candidate steps=50,guidance_interval=0.3:5 \\\n"
        "      --prompts prompts.txt --image cat.png --mask mask.png --seeds 4 --sheet compared.png\n"
        "  k22-export compare bundle --baseline tiles=false --candidate tiles=true --image-embeds hat.npz --json",
    )
    parser.add_argument("bundle", type=path_argument, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument("--baseline", required=True, metavar="SPEC", help="the setting to compare with")
    parser.add_argument(
        "--candidate",
        dest="candidates",
        action="append",
        required=True,
        metavar="SPEC",
        help="a setting to compare; may be given several times",
    )
    _add_inputs(parser)
    parser.add_argument("--trajectory", action="store_true", help="print the latents' PSNR after every step")
    parser.add_argument(
        "--sheet", type=path_argument, metavar="F.png", help="write all pictures side by side into a picture"
    )
    add_common_options(parser)
    parser.set_defaults(run=_compare)


def _add_inputs(parser: Parser) -> None:
    group = parser.add_argument_group("inputs")
    conditioning = group.add_mutually_exclusive_group(required=True)
    conditioning.add_argument(
        "--prompts",
        type=path_argument,
        metavar="F",
        help="a text file with a prompt on each line, or a .json file with a list of them",
    )
    conditioning.add_argument(
        "--image-embeds",
        type=path_argument,
        metavar="F",
        help="embeddings instead of prompts: an .npz with image_embeds and negative_image_embeds, or an .npy with the"
        " former",
    )
    group.add_argument(
        "--negative-image-embeds", type=path_argument, metavar="F", help="an .npy or .npz with the negative ones"
    )
    group.add_argument(
        "--seeds",
        type=_count,
        default=1,
        metavar="N",
        help="results of each prompt, with the seeds 0 to N-1 (default: 1)",
    )
    group.add_argument(
        "--image",
        type=path_argument,
        metavar="F",
        help="the picture to repaint, or to change if the bundle does not inpaint (default: a picture of smooth colours"
        " for inpainting, else none)",
    )
    group.add_argument(
        "--mask",
        type=path_argument,
        metavar="F",
        help="the mask: white is repainted (default: an ellipse, without --image)",
    )
    group.add_argument("--height", type=int, metavar="PX", help="height of results (default: the picture's, or 512)")
    group.add_argument("--width", type=int, metavar="PX", help="width of results (default: the picture's, or 512)")
    group.add_argument(
        "--strength", type=float, metavar="S", help="strength of the change to --image, without a mask (default: 0.3)"
    )


def _count(text: str) -> int:
    digits = text.lstrip("0")
    if not digits or not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of 1 or more")
    if len(digits) > len(str(MAX_CASES)) or int(digits) > MAX_CASES:
        raise argparse.ArgumentTypeError(f"got {text}; expected at most {MAX_CASES}")
    return int(digits)


def _compare(args: argparse.Namespace) -> int:
    from kandinsky_export.comparison.settings import Setting

    baseline, *candidates = (Setting.parse(text) for text in (args.baseline, *args.candidates))
    if args.sheet is not None:
        _check_sheet(args)
    from kandinsky_export.comparison.cases import cases_of
    from kandinsky_export.comparison.compare import compare
    from kandinsky_export.comparison.report import to_dict, to_text
    from kandinsky_runtime.bundle.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    pictures = _pictures(args, bundle)
    cases = cases_of(_conditionings(args, bundle), args.seeds, pictures)
    comparison = compare(bundle, baseline, candidates, cases, pictures=args.sheet is not None, progress=not args.quiet)
    if args.sheet is not None:
        from kandinsky_export.comparison.sheet import sheet_of
        from kandinsky_runtime.pictures.saving import save_image

        save_image(sheet_of(comparison), args.sheet)
    write_report(args, to_dict(comparison), to_text(comparison, every_step=args.trajectory))
    if failed := [
        f"{name} ({item.setting.text}): {item.failed}"
        for name, item in zip(comparison.names, comparison.results, strict=True)
        if item.failed is not None
    ]:
        sys.stdout.flush()
        raise FaultList(f"{len(failed)} of {len(candidates)} candidates failed", failed)
    return 0


def _check_sheet(args: argparse.Namespace) -> None:
    from kandinsky_runtime.pictures.saving import check_output_path

    check_output_path(args.sheet)
    for name in ("prompts", "image_embeds", "negative_image_embeds", "image", "mask"):
        path = getattr(args, name)
        if path is not None and os.path.realpath(path) == os.path.realpath(args.sheet):
            raise UsageError(
                f"--sheet {args.sheet} would replace the file of --{name.replace('_', '-')}; choose another path"
            )


def _conditionings(args: argparse.Namespace, bundle: Bundle) -> list[tuple[str, Mapping[str, Any]]]:
    """Every prompt or embedding with its label."""
    from kandinsky_export.comparison.cases import read_prompts_file
    from kandinsky_runtime.bundle.manifest import PROMPT
    from kandinsky_runtime.prior.embeds import read_embeds

    if args.prompts is not None:
        if args.negative_image_embeds is not None:
            raise UsageError("--negative-image-embeds goes with --image-embeds; leave it out with --prompts")
        bundle.require(PROMPT)
        return [(prompt, {"prompt": prompt}) for prompt in read_prompts_file(args.prompts)]
    embeds, negative = read_embeds(args.image_embeds, args.negative_image_embeds)
    if negative is not None and len(negative) not in (1, len(embeds)):
        raise UsageError(
            f"got {len(negative)} negative embeddings for {len(embeds)} embeddings; expected one, or one for each"
        )
    return [
        (
            f"embedding {number + 1}",
            {
                "image_embeds": row,
                "negative_image_embeds": None if negative is None else negative[min(number, len(negative) - 1)],
            },
        )
        for number, row in enumerate(embeds)
    ]


def _pictures(args: argparse.Namespace, bundle: Bundle) -> Pictures:
    """What every case begins with: the picture and the mask, or the size alone."""
    from kandinsky_export.comparison.cases import generated, inpainted
    from kandinsky_export.random_weights.sample_picture import sample_picture
    from kandinsky_runtime.bundle.manifest import INPAINT
    from kandinsky_runtime.checks import whole_number
    from kandinsky_runtime.limits import MIN_SIZE
    from kandinsky_runtime.pictures.image import read_image
    from kandinsky_runtime.pictures.mask import read_mask

    for name in ("height", "width"):
        if getattr(args, name) is not None:
            whole_number(f"--{name}", getattr(args, name), MIN_SIZE)
    if INPAINT not in bundle.manifest.tasks:
        if args.mask is not None:
            raise UsageError(f"--mask is for inpainting; {bundle.subject} does {', '.join(bundle.manifest.tasks)}")
        image = None if args.image is None else read_image(args.image)
        if image is None and args.strength is not None:
            raise UsageError("--strength goes with a picture to change; give --image, or leave --strength out")
        return generated(args.height, args.width, image, args.strength)
    if args.strength is not None:
        raise UsageError(f"--strength is for bundles that do not inpaint; {bundle.subject} does: leave it out")
    if (args.image is None) != (args.mask is None):
        raise UsageError("--image and --mask go together; give both, or none for a sample picture")
    if args.image is None:
        image, mask = sample_picture(args.width or _SAMPLE_SIDE, args.height or _SAMPLE_SIDE)
    else:
        image, mask = read_image(args.image), read_mask(args.mask)
    return inpainted(image, mask, args.height, args.width)

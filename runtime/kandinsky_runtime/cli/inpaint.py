"""`k22 inpaint`."""

from __future__ import annotations

import argparse
from typing import Any

from kandinsky_runtime.cli.options import (
    add_bundle,
    add_engine_options,
    add_group,
    add_out,
    add_prompt_options,
    add_sampling_options,
    add_tiles,
)
from kandinsky_runtime.cli_support import Parser, add_common_options, path_argument
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.errors import UsageError


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inpaint",
        help="repaint the white area of a mask",
        description="Repaint the white area of a mask. Pixels outside it stay as they are.",
        epilog="examples:\n"
        '  k22 inpaint bundle --prompt "a hat" --image cat.png --mask mask.png --out cat_with_hat.png\n'
        '  k22 inpaint bundle --prompt "a hat" --image cat.png --mask-box 250,0,-250,250 --out cat_with_hat.png\n'
        "  k22 inpaint bundle --image-embeds hat.npz --image cat.png --mask mask.png --out out.png \\\n"
        "      --height 768 --width 768 --num-inference-steps 50 --seed 7 --num-images 4 --json",
    )
    add_bundle(parser)
    add_prompt_options(parser)
    needed = parser.add_argument_group("inputs and output")
    needed.add_argument(
        "--image",
        type=path_argument,
        action="append",
        required=True,
        metavar="F",
        help="picture to repaint: PNG, JPEG, WebP, …; several, or a folder, are run one after the other",
    )
    repainted = needed.add_mutually_exclusive_group()
    repainted.add_argument(
        "--mask",
        type=path_argument,
        action="append",
        metavar="F",
        help="mask picture: white is repainted, see --mask-mode; one for all pictures, one for each, or a folder with"
        " masks of the same names",
    )
    repainted.add_argument(
        "--mask-box",
        type=_box,
        metavar="L,T,R,B",
        help="rectangle to repaint, in px: left, top, right, bottom; negative ones count from the right or the bottom",
    )
    add_out(needed)
    add_group(needed, InpaintOptions, "files")
    add_sampling_options(parser.add_argument_group("sampling"), InpaintOptions)
    add_engine_options(parser)
    add_tiles(parser)
    add_common_options(parser)
    parser.set_defaults(run=_inpaint)


def _box(text: str) -> tuple[int, ...]:
    edges = text.split(",")
    try:
        box = tuple(map(int, edges))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a box; expected four whole numbers such as 250,0,-250,250")
    return box


def _inpaint(args: argparse.Namespace) -> int:
    from kandinsky_runtime.cli.batch import mask_files, picture_files, run_pictures
    from kandinsky_runtime.decoder.inpaint import InpaintPipeline

    if args.mask is None and args.mask_box is None and args.expand is None:
        raise UsageError("there is nothing to repaint; give --mask F, --mask-box L,T,R,B or --expand L,T,R,B")
    if args.mask_box is not None and args.mask_mode != "auto":
        raise UsageError("--mask-mode is for the file of --mask; leave it out with --mask-box")
    args.image = picture_files(args.image)
    args.mask = None if args.mask is None else mask_files(args.mask, args.image)
    return run_pictures(args, InpaintPipeline, InpaintOptions, ("image", "mask"), _sources)


def _sources(args: argparse.Namespace, index: int) -> dict[str, Any]:
    """The picture and the mask of one of the runs.

    Raises:
        InputError: one of them cannot be read.
    """
    from kandinsky_runtime.cli.pipes import picture_source
    from kandinsky_runtime.pictures.image import read_picture
    from kandinsky_runtime.pictures.mask import Mask, box_mask, understand_mask

    picture = read_picture(picture_source(args, args.image[index], "image"), max_pixels=args.max_pixels)
    mask = None
    if args.mask_box is not None:
        mask = Mask(box_mask(*picture.image.size, args.mask_box))
    elif args.mask is not None:
        mask = understand_mask(
            picture_source(args, args.mask[index], "mask"), mode=args.mask_mode, max_pixels=args.max_pixels
        )
    return {"image": picture, "mask_image": mask}

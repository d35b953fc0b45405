"""`k22 generate`."""

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
from kandinsky_runtime.decoder.options import GenerateOptions


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "generate",
        help="make a picture from a prompt, or change one",
        description="Make a picture from a prompt; with --image, change that picture. Needs a bundle of a plain decoder"
        " (kandinsky-2-2-decoder).",
        epilog="examples:\n"
        '  k22 generate bundle --prompt "a red cat, 4k photo" --height 768 --width 768 --out cat.png\n'
        '  k22 generate bundle --prompt "a winter night" --image house.jpg --strength 0.4 --out winter.png\n'
        '  k22 generate bundle --prompt "a cat" --prompt-image hat.png --mix 0.4,0.6 --out mix.png --seed 7 --json',
    )
    add_bundle(parser)
    add_prompt_options(parser)
    files = parser.add_argument_group("input and output")
    files.add_argument(
        "--image",
        type=path_argument,
        action="append",
        metavar="F",
        help="picture to change: PNG, JPEG, WebP, …; several, or a folder, are run one after the other",
    )
    add_out(files)
    add_group(files, GenerateOptions, "files")
    add_sampling_options(parser.add_argument_group("sampling"), GenerateOptions)
    add_engine_options(parser)
    add_tiles(parser)
    add_common_options(parser)
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from kandinsky_runtime.cli.batch import picture_files, run_pictures
    from kandinsky_runtime.decoder.generate import GeneratePipeline

    args.image = None if args.image is None else picture_files(args.image)
    return run_pictures(args, GeneratePipeline, GenerateOptions, ("image",), _sources)


def _sources(args: argparse.Namespace, index: int) -> dict[str, Any]:
    """The picture of one of the runs; none for text-to-image.

    Raises:
        InputError: it cannot be read.
    """
    from kandinsky_runtime.cli.pipes import picture_source
    from kandinsky_runtime.pictures.image import read_picture

    if args.image is None:
        return {}
    source = picture_source(args, args.image[index], "image")
    return {"image": read_picture(source, max_pixels=args.max_pixels)}

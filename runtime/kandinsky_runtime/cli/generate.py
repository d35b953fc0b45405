"""`k22 generate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kandinsky_runtime.cli.options import (
    add_bundle,
    add_engine_options,
    add_group,
    add_out,
    add_prompt_options,
    add_sampling_options,
    add_tiles,
    declared_arguments,
    engine_arguments,
    noise_arguments,
)
from kandinsky_runtime.cli_support import Parser, add_common_options
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
    files.add_argument("--image", type=Path, metavar="F", help="picture to change: PNG, JPEG, WebP, …")
    add_out(files)
    add_group(files, GenerateOptions, "files")
    add_sampling_options(parser.add_argument_group("sampling"), GenerateOptions)
    add_engine_options(parser)
    add_tiles(parser)
    add_common_options(parser)
    parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> int:
    from kandinsky_runtime.cli.pictures import Results
    from kandinsky_runtime.cli.prompting import read_conditioning
    from kandinsky_runtime.decoder.generate import GeneratePipeline
    from kandinsky_runtime.pictures.image import read_picture

    results = Results(args, ("image",))
    conditioning, count = read_conditioning(args)
    results.plan(count)
    image = None if args.image is None else read_picture(args.image, max_pixels=args.max_pixels)
    with GeneratePipeline.load(args.bundle, **engine_arguments(args), tiles=args.tiles) as pipeline:
        output = pipeline(
            image=image,
            **declared_arguments(args, GenerateOptions) | noise_arguments(args) | conditioning,
            progress=not args.quiet,
        )
    results.save(pipeline, output)
    return 0

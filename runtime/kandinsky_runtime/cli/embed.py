"""`k22 embed`."""

from __future__ import annotations

import argparse
import json

from kandinsky_runtime.cli.options import (
    add_bundle,
    add_declared,
    add_engine_options,
    add_noise_options,
    add_prompt_options,
    load_arguments,
)
from kandinsky_runtime.cli.outputs import output_file
from kandinsky_runtime.cli_support import Parser, add_common_options, print_done, print_output
from kandinsky_runtime.decoder.options import DecoderOptions
from kandinsky_runtime.limits import MAX_RESULTS


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "embed",
        help="make image embeddings of prompts, for later runs",
        description="Make image embeddings of prompts and write them to a file, which inpaint and generate take as"
        " --image-embeds, also from bundles that have no prior.",
        epilog="examples:\n"
        '  k22 embed bundle --prompt "a hat" --seed 7 --out hat.npz\n'
        '  k22 embed bundle --prompt "a cat" --prompt-image hat.png --mix 0.4,0.6 --out mix.npz',
    )
    add_bundle(parser)
    add_prompt_options(parser, embeds=False)
    files = parser.add_argument_group("output")
    files.add_argument("--out", type=output_file, required=True, metavar="F.npz", help="the file of embeddings")
    add_declared(files, DecoderOptions, "max_pixels")
    add_noise_options(parser.add_argument_group("sampling"))
    add_engine_options(parser)
    add_common_options(parser)
    parser.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> int:
    from kandinsky_runtime.checks import whole_number
    from kandinsky_runtime.cli.pictures import check_overwriting
    from kandinsky_runtime.cli.prompting import read_prompts
    from kandinsky_runtime.prior.embeds import check_embeds_path, write_embeds
    from kandinsky_runtime.prior.pipeline import PriorPipeline

    check_embeds_path(args.out)
    whole_number("--num-images", args.num_images_per_prompt, 1, MAX_RESULTS)
    check_overwriting(args, [args.out], ())
    conditioning, _ = read_prompts(args)
    with PriorPipeline.load(args.bundle, **load_arguments(args)) as pipeline:
        output = pipeline(
            **conditioning,
            num_images_per_prompt=args.num_images_per_prompt,
            num_inference_steps=args.prior_num_inference_steps,
            guidance_scale=args.prior_guidance_scale,
            seed=args.seed,
            noise=args.noise or "torch",
            max_pixels=args.max_pixels,
            progress=not args.quiet,
        )
    write_embeds(args.out, output.image_embeds, output.negative_image_embeds)
    if args.json:
        result = {
            "embeds": str(args.out),
            "shape": list(output.image_embeds.shape),
            "seeds": list(output.seeds),
            "engine": pipeline.graphs.selection.engine.name,
            "precision": pipeline.graphs.selection.precision,
            "notes": list(output.notes),
            "seconds": {part: round(value, 4) for part, value in output.seconds.items()},
        }
        print_output(json.dumps(result, indent=1))
    else:
        seeds = ", ".join(str(seed) for seed in output.seeds)
        print_done(f"wrote {args.out}: embeddings {output.image_embeds.shape} (seed {seeds})")
    return 0

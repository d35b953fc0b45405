"""`k22-export checkpoint`."""

from __future__ import annotations

import argparse

from kandinsky_export.cli.options import add_out, report_files
from kandinsky_runtime.cli_support import Parser, add_common_options, path_argument
from kandinsky_runtime.errors import UsageError


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "checkpoint",
        help="write a checkpoint with random weights (seeded)",
        description="Write a checkpoint with the published names, shapes and dtypes and random weights, which"
        " depend on the seed and the tensor's name only. The file image_embeds.npz has image embeddings for it.",
        epilog="examples:\n  k22-export checkpoint --size tiny --seed 0 --format diffusers --out tiny\n"
        "  k22-export checkpoint --prior --format diffusers --out tiny-prior\n"
        "  k22-export bundle drawn-cats/decoder-inpaint --prior drawn-cats/prior --out cats",
    )
    parser.add_argument(
        "--size",
        choices=("tiny", "full"),
        default="tiny",
        help="tiny: 16 MB; full: 5.3 GB, or 14.3 GB with --prior (default: tiny). Small trained ones come with the"
        " package: see the last example",
    )
    parser.add_argument(
        "--decoder",
        choices=("inpaint", "plain"),
        help="inpaint, or plain for text-to-image and image-to-image (default: inpaint)",
    )
    parser.add_argument(
        "--prior", action="store_true", help="write a prior instead of a decoder: encoders, prior and tokenizer"
    )
    parser.add_argument(
        "--vocabulary",
        type=path_argument,
        metavar="DIR",
        help="with --prior: a folder with vocab.json and merges.txt (default: a small vocabulary)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the weights (default: 0)")
    parser.add_argument(
        "--format",
        choices=("ppdiffusers", "diffusers"),
        default="ppdiffusers",
        help="ppdiffusers writes .pdparams files, diffusers .safetensors files (default: ppdiffusers)",
    )
    add_out(parser)
    add_common_options(parser)
    parser.set_defaults(run=_checkpoint)


def _checkpoint(args: argparse.Namespace) -> int:
    if args.prior:
        if args.decoder is not None:
            raise UsageError("got --decoder and --prior, which make different checkpoints: give one of them")
        return _prior_checkpoint(args)
    if args.vocabulary is not None:
        raise UsageError(
            "--vocabulary goes with --prior, because a decoder has no tokenizer: add --prior, or leave it out"
        )
    from kandinsky_export.random_weights.sample_checkpoint import EMBEDS, write_sample_checkpoint

    write_sample_checkpoint(
        args.out,
        size=args.size,
        decoder=args.decoder or "inpaint",
        seed=args.seed,
        form=args.format,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    report_files(args, {"checkpoint": str(args.out), "image_embeds": str(args.out / EMBEDS)}, f"wrote {args.out}")
    return 0


def _prior_checkpoint(args: argparse.Namespace) -> int:
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    write_sample_prior(
        args.out,
        size=args.size,
        seed=args.seed,
        form=args.format,
        vocabulary=args.vocabulary,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    report_files(args, {"prior": str(args.out)}, f"wrote {args.out}")
    return 0

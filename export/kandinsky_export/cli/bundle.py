"""`k22-export bundle`."""

from __future__ import annotations

import argparse

from kandinsky_export.cli.options import add_out, names, report_files
from kandinsky_export.cli.sources import add_prior, add_source, open_checkpoint, open_prior
from kandinsky_export.variants import DEFAULT_VARIANTS, VARIANTS, check_variants
from kandinsky_runtime.cli_support import Parser, add_common_options


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "bundle",
        help="export a checkpoint to a bundle",
        description="Trace UNet and MoVQ, and with --prior the encoders and the prior, to Paddle static graphs and"
        " ONNX, with batch, height, width and text length dynamic. The bundle appears whole or not at all.",
        epilog="examples:\n  k22-export bundle drawn-cats/decoder-inpaint --prior drawn-cats/prior --out cats\n"
        "  k22-export bundle my-checkpoint --out bundle\n"
        "  k22-export bundle kandinsky-community/kandinsky-2-2-decoder-inpaint --variants onnx-fp32 --out bundle\n"
        "  k22-export bundle my-checkpoint --prior kandinsky-community/kandinsky-2-2-prior --without image_encoder"
        " --out bundle",
    )
    add_source(parser)
    add_prior(parser)
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="write also a second graph for each ONNX graph, with the operators of ONNX Runtime's CUDA provider; it is"
        " small and reads the same weights",
    )
    parser.add_argument(
        "--without",
        type=names,
        default=(),
        metavar="NAMES",
        help="graphs of the prior to leave out, separated by commas: image_encoder if no prompt is a picture,"
        " text_encoder and prior if the prompts are fixed and k22 embed has written them to a file (default: none)",
    )
    add_out(parser)
    parser.add_argument(
        "--variants",
        type=names,
        default=DEFAULT_VARIANTS,
        metavar="NAMES",
        help=f"forms of each graph, separated by commas: {', '.join(VARIANTS)} (default: {','.join(DEFAULT_VARIANTS)})",
    )
    add_common_options(parser)
    parser.set_defaults(run=_bundle)


def _bundle(args: argparse.Namespace) -> int:
    from kandinsky_export.folders import check_target
    from kandinsky_export.without import check_without
    from kandinsky_runtime.bundle.bundle import MANIFEST

    variants = check_variants(args.variants)
    check_target(args.out, marker=MANIFEST, overwrite=args.overwrite)
    check_without(args.without, has_prior=args.prior is not None)
    checkpoint, name = open_checkpoint(args)
    prior, prior_name = open_prior(args)
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.unused_files import unused_notes

    manifest = export_bundle(
        checkpoint,
        args.out,
        name=name,
        variants=variants,
        prior=prior,
        prior_name=prior_name,
        without=args.without,
        cuda_graphs=args.cuda_graphs,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    size = sum(entry.bytes for entry in manifest.files.values())
    notes = unused_notes([checkpoint] if prior is None else [checkpoint, prior])
    summary = {"bundle": str(args.out), "variants": list(variants), "bytes": size, "notes": notes}
    report_files(args, summary, f"wrote {args.out}: {', '.join(variants)}, {size / 1e6:,.1f} MB")
    return 0

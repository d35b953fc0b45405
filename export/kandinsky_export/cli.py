"""`k22-export`: arguments → one call."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kandinsky_runtime.cli_support import HelpFormatter, add_common_options, run

VARIANTS = ("paddle", "onnx-fp32")  # bundle_export.VARIANTS; named here so that --help need not load Paddle

_EPILOG = """\
examples:
  k22-export checkpoint --size tiny --out tiny              made-up weights, to try everything out
  k22-export bundle tiny --out bundle                       from a folder
  k22-export bundle kandinsky-community/kandinsky-2-2-decoder-inpaint --out bundle
  k22-export verify bundle tiny                             compare with eager ppdiffusers
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 the work failed, 2 the arguments are wrong."""
    return run(_parser(), argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="k22-export",
        description="Turn a Kandinsky 2.2 inpainting checkpoint into a bundle of compiled graphs.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    checkpoint = commands.add_parser(
        "checkpoint",
        help="write a checkpoint with made-up weights",
        description="Write a checkpoint with the right names, shapes and dtypes, and seeded values that depend on the"
        " seed and the tensor's name only. It comes with image embeddings that fit it, image_embeds.npz.",
        epilog="example: k22-export checkpoint --size tiny --seed 0 --format diffusers --out tiny",
        formatter_class=HelpFormatter,
    )
    checkpoint.add_argument("--size", choices=("tiny", "full"), default="tiny", help="tiny: 4 MB; full: 5.3 GB")
    checkpoint.add_argument("--seed", type=int, default=0, help="of the values")
    checkpoint.add_argument("--format", choices=("ppdiffusers", "diffusers"), default="ppdiffusers", help="of the files")
    _add_out(checkpoint)
    add_common_options(checkpoint)
    checkpoint.set_defaults(run=_checkpoint)

    bundle = commands.add_parser(
        "bundle",
        help="export a checkpoint to a bundle",
        description="Trace UNet and MoVQ to Paddle static graphs and ONNX, with batch, height and width dynamic. The"
        " bundle appears whole or not at all.",
        epilog="examples:\n  k22-export bundle my-checkpoint --out bundle\n"
        "  k22-export bundle kandinsky-community/kandinsky-2-2-decoder-inpaint --variants onnx-fp32 --out bundle",
        formatter_class=HelpFormatter,
    )
    _add_source(bundle)
    _add_out(bundle)
    bundle.add_argument(
        "--variants",
        type=lambda text: tuple(item for item in text.split(",") if item),
        default=VARIANTS,
        help="which forms, separated by commas: " + ", ".join(VARIANTS) + "; they share their weights (default: all)",
    )
    add_common_options(bundle)
    bundle.set_defaults(run=_bundle)

    verify = commands.add_parser(
        "verify",
        help="compare a bundle with eager ppdiffusers",
        description="Run every component at several shapes and one whole trajectory, with ppdiffusers and with the"
        " bundle on each engine, and write the differences into the bundle's manifest.",
        epilog="example: k22-export verify bundle my-checkpoint --engines onnxruntime,paddle",
        formatter_class=HelpFormatter,
    )
    verify.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    _add_source(verify)
    verify.add_argument(
        "--engines",
        type=lambda text: tuple(item for item in text.split(",") if item),
        default=None,
        help="which engines, separated by commas (default: all that are installed and can run it)",
    )
    verify.add_argument("--steps", type=int, default=10, help="of the trajectory; 0 leaves it out (default: 10)")
    verify.add_argument("--trajectory", action="store_true", help="show every step of the trajectory")
    add_common_options(verify)
    verify.set_defaults(run=_verify)
    return parser


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a folder, or a hub name such as owner/model")
    parser.add_argument(
        "--hub", choices=("huggingface", "paddle"), default="huggingface", help="where a hub name is looked up"
    )
    parser.add_argument("--revision", help="of a hub name (Hugging Face only)")
    parser.add_argument("--weights", metavar="VARIANT", help="variant of the weight files, such as fp16")


def _checkpoint(args: argparse.Namespace) -> int:
    from kandinsky_export.sample_checkpoint import EMBEDS, write_sample_checkpoint

    write_sample_checkpoint(
        args.out,
        size=args.size,
        seed=args.seed,
        form=args.format,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    _report(args, {"checkpoint": str(args.out), "image_embeds": str(args.out / EMBEDS)}, f"wrote {args.out}")
    return 0


def _bundle(args: argparse.Namespace) -> int:
    from kandinsky_export.folders import check_target

    check_target(args.out, overwrite=args.overwrite)
    checkpoint = _open_checkpoint(args)
    from kandinsky_export.bundle_export import export_bundle

    manifest = export_bundle(
        checkpoint,
        args.out,
        name=args.checkpoint,
        variants=args.variants,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    size = sum(entry.bytes for entry in manifest.files.values())
    summary = {"bundle": str(args.out), "variants": list(args.variants), "bytes": size}
    _report(args, summary, f"wrote {args.out}: {', '.join(args.variants)}, {size / 1e6:,.1f} MB")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle import Bundle

    bundle = Bundle.open(args.bundle)
    checkpoint = _open_checkpoint(args)
    from kandinsky_export.verify import verify_bundle

    report = verify_bundle(
        bundle, checkpoint, engine_names=args.engines, steps=args.steps, progress=not args.quiet
    )
    _report(args, report.to_dict(), report.table(every_step=args.trajectory))
    return 0 if report.passed else 1


def _open_checkpoint(args: argparse.Namespace) -> Any:
    from kandinsky_export.hub import fetch_checkpoint, looks_like_hub_name

    root = Path(args.checkpoint)
    if not root.exists() and looks_like_hub_name(args.checkpoint):
        root = fetch_checkpoint(
            args.checkpoint, hub=args.hub, revision=args.revision, variant=args.weights, progress=not args.quiet
        )
    from kandinsky_export.checkpoint import Checkpoint

    return Checkpoint.open(root, args.weights)


def _report(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    sys.stdout.write((json.dumps(data, indent=1) if args.json else text) + "\n")

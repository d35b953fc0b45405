"""`k22-export`: arguments → one call."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kandinsky_export.variants import DEFAULT_VARIANTS, VARIANTS, check_variants
from kandinsky_runtime.cli_support import Parser, add_common_options, run
from kandinsky_runtime.errors import UsageError

if TYPE_CHECKING:
    from kandinsky_export.checkpoint import Checkpoint
    from kandinsky_export.prior_checkpoint import PriorCheckpoint

_EPILOG = """\
examples:
  k22-export checkpoint --size tiny --out tiny              made-up weights, to try everything out
  k22-export bundle tiny --out bundle                       from a folder
  k22-export bundle kandinsky-community/kandinsky-2-2-decoder-inpaint --out bundle
  k22-export bundle tiny --prior tiny-prior --out bundle    with what makes embeddings of a prompt
  k22-export bundle tiny --out lean --variants onnx-fp16    for GPUs: half the bytes
  k22-export verify bundle tiny                             compare with eager ppdiffusers
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 the work failed, 2 the arguments are wrong, 130 interrupted.

    Raises:
        SystemExit: `--help`, or the arguments cannot be parsed.
    """
    given = sys.argv[1:] if argv is None else argv
    return run(_parser(needs_checkpoint="--tensorrt" not in given), given)


def _parser(needs_checkpoint: bool = True) -> Parser:
    """The command line; argparse cannot say that an argument is needed only without an option."""
    parser = Parser(
        prog="k22-export",
        description="Turn a Kandinsky 2.2 inpainting checkpoint into a bundle of compiled graphs.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_checkpoint(commands)
    _add_bundle(commands)
    _add_verify(commands, needs_checkpoint)
    return parser


def _add_checkpoint(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "checkpoint",
        help="write a checkpoint with made-up weights",
        description="Write a checkpoint with the right names, shapes and dtypes, and seeded values that depend on the"
        " seed and the tensor's name only. It comes with image embeddings that fit it, image_embeds.npz.",
        epilog="examples:\n  k22-export checkpoint --size tiny --seed 0 --format diffusers --out tiny\n"
        "  k22-export checkpoint --prior --format diffusers --out tiny-prior",
    )
    parser.add_argument(
        "--size", choices=("tiny", "full"), default="tiny", help="tiny: 16 MB (default); full: 5.3 GB, a prior 14.3 GB"
    )
    parser.add_argument(
        "--decoder",
        choices=("inpaint", "plain"),
        help="inpaint (default), or plain for text-to-image and image-to-image",
    )
    parser.add_argument("--prior", action="store_true", help="make a prior instead: encoders, prior and tokenizer")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="DIR",
        help="of a prior: a folder with vocab.json and merges.txt (default: a small vocabulary made here)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the values (default: 0)")
    parser.add_argument(
        "--format",
        choices=("ppdiffusers", "diffusers"),
        default="ppdiffusers",
        help=".pdparams (default) or .safetensors",
    )
    _add_out(parser)
    add_common_options(parser)
    parser.set_defaults(run=_checkpoint)


def _add_bundle(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "bundle",
        help="export a checkpoint to a bundle",
        description="Trace UNet and MoVQ, and with --prior the encoders and the prior, to Paddle static graphs and"
        " ONNX, with batch, height, width and text length dynamic. The bundle appears whole or not at all.",
        epilog="examples:\n  k22-export bundle my-checkpoint --out bundle\n"
        "  k22-export bundle kandinsky-community/kandinsky-2-2-decoder-inpaint --variants onnx-fp32 --out bundle\n"
        "  k22-export bundle my-checkpoint --prior kandinsky-community/kandinsky-2-2-prior --without image_encoder"
        " --out bundle",
    )
    _add_source(parser)
    _add_prior(parser)
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="also write each ONNX graph with the operators of ONNX Runtime's CUDA provider (small, same weights)",
    )
    parser.add_argument(
        "--without",
        type=_names,
        default=(),
        metavar="NAMES",
        help="graphs of the prior to leave out, separated by commas: image_encoder where no picture is a prompt,"
        " text_encoder and prior where the prompts are fixed (k22 embed writes them to a file)",
    )
    _add_out(parser)
    parser.add_argument(
        "--variants",
        type=_names,
        default=DEFAULT_VARIANTS,
        metavar="NAMES",
        help=f"which forms, separated by commas: {', '.join(VARIANTS)} (default: {','.join(DEFAULT_VARIANTS)})",
    )
    add_common_options(parser)
    parser.set_defaults(run=_bundle)


def _add_verify(commands: argparse._SubParsersAction[Parser], needs_checkpoint: bool) -> None:
    parser = commands.add_parser(
        "verify",
        help="compare a bundle with eager ppdiffusers",
        description="Run every component at several shapes and one whole trajectory, with ppdiffusers and with the"
        " bundle on each engine, and write the differences into the bundle's manifest. Exit status 1 where one of"
        " them lies outside its tolerance.",
        epilog="examples:\n  k22-export verify bundle my-checkpoint --engines onnxruntime,openvino:bf16\n"
        "  k22-export verify bundle my-checkpoint --steps 20 --trajectory --plot trajectory.png\n"
        "  k22-export verify bundle my-checkpoint --prior my-prior\n"
        "  k22-export verify bundle --tensorrt --height 512:768:1024 --width 512:768:1024 --batch 1:2:8",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    _add_source(parser, nargs=None if needs_checkpoint else "?")
    _add_prior(parser)
    parser.add_argument(
        "--engines",
        type=_names,
        metavar="NAMES",
        help="NAME or NAME:PRECISION, separated by commas (default: all that can run it here, in fp32)",
    )
    parser.add_argument(
        "--steps", type=_count, default=10, metavar="N", help="of the trajectory; 0 leaves it out (default: 10)"
    )
    parser.add_argument("--trajectory", action="store_true", help="show every step of the trajectory")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="draw every step of the trajectory")
    ready = parser.add_argument_group("TensorRT", "needs no TensorRT, no GPU and no CHECKPOINT")
    ready.add_argument(
        "--tensorrt", action="store_true", help="check instead whether TensorRT would take the ONNX graphs"
    )
    for option, unit in (("--height", "PX"), ("--width", "PX"), ("--batch", "N")):
        ready.add_argument(option, action="append", metavar=unit, help="as k22 build takes it")
    add_common_options(parser)
    parser.set_defaults(run=_verify)


def _add_out(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")


def _add_source(parser: Parser, nargs: str | None = None) -> None:
    parser.add_argument(
        "checkpoint", nargs=nargs, metavar="CHECKPOINT", help="a folder, or a hub name such as owner/model"
    )
    parser.add_argument(
        "--hub", choices=("huggingface", "paddle"), help="where a hub name is looked up (default: huggingface)"
    )
    parser.add_argument("--revision", help="of CHECKPOINT's hub name (Hugging Face only)")
    parser.add_argument("--weights", metavar="VARIANT", help="variant of CHECKPOINT's weight files, such as fp16")


def _add_prior(parser: Parser) -> None:
    parser.add_argument("--prior", metavar="PRIOR", help="the prior that goes with CHECKPOINT: a folder or a hub name")
    parser.add_argument("--prior-revision", metavar="REVISION", help="of PRIOR's hub name (Hugging Face only)")
    parser.add_argument("--prior-weights", metavar="VARIANT", help="variant of PRIOR's weight files, such as fp16")


def _names(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",") if item.strip())


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _checkpoint(args: argparse.Namespace) -> int:
    if args.prior:
        if args.decoder is not None:
            raise UsageError("--decoder and --prior make different checkpoints: give one of them")
        return _prior_checkpoint(args)
    if args.vocabulary is not None:
        raise UsageError("--vocabulary goes with --prior: a decoder has no tokenizer")
    from kandinsky_export.sample_checkpoint import EMBEDS, write_sample_checkpoint

    write_sample_checkpoint(
        args.out,
        size=args.size,
        decoder=args.decoder or "inpaint",
        seed=args.seed,
        form=args.format,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    _report(args, {"checkpoint": str(args.out), "image_embeds": str(args.out / EMBEDS)}, f"wrote {args.out}")
    return 0


def _prior_checkpoint(args: argparse.Namespace) -> int:
    from kandinsky_export.sample_prior import write_sample_prior

    write_sample_prior(
        args.out,
        size=args.size,
        seed=args.seed,
        form=args.format,
        vocabulary=args.vocabulary,
        overwrite=args.overwrite,
        progress=not args.quiet,
    )
    _report(args, {"prior": str(args.out)}, f"wrote {args.out}")
    return 0


def _bundle(args: argparse.Namespace) -> int:
    from kandinsky_export.folders import check_target
    from kandinsky_export.without import check_without
    from kandinsky_runtime.bundle import MANIFEST

    variants = check_variants(args.variants)
    check_target(args.out, marker=MANIFEST, overwrite=args.overwrite)
    check_without(args.without, has_prior=args.prior is not None)
    checkpoint, name = _open_checkpoint(args)
    prior, prior_name = _open_prior(args)
    from kandinsky_export.bundle_export import export_bundle

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
    summary = {"bundle": str(args.out), "variants": list(variants), "bytes": size}
    _report(args, summary, f"wrote {args.out}: {', '.join(variants)}, {size / 1e6:,.1f} MB")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle import Bundle
    from kandinsky_runtime.image import check_output_path

    if args.tensorrt:
        return _check_tensorrt(args)
    if args.height or args.width or args.batch:
        raise UsageError("--height, --width and --batch go with --tensorrt")
    bundle = Bundle.open(args.bundle)
    from kandinsky_export.verify import select_engines, verify_bundle

    engine_names = select_engines(bundle, args.engines)
    if args.plot is not None:
        check_output_path(args.plot)
        if not args.steps:
            raise UsageError("--plot draws the trajectory, which --steps 0 leaves out")
    checkpoint, _ = _open_checkpoint(args)
    prior, _ = _open_prior(args)
    report = verify_bundle(
        bundle, checkpoint, prior=prior, engine_names=engine_names, steps=args.steps, progress=not args.quiet
    )
    if args.plot is not None:
        from kandinsky_export.plot import plot_trajectories

        plot_trajectories(report, args.plot)
    _report(args, report.to_dict(), report.table(every_step=args.trajectory))
    return 0 if report.passed else 1


def _check_tensorrt(args: argparse.Namespace) -> int:
    from kandinsky_runtime.build.profiles import read_profiles
    from kandinsky_runtime.bundle import Bundle

    others = ("checkpoint", "hub", "revision", "weights", "prior", "engines", "trajectory", "plot")
    if given := [name for name in others if getattr(args, name)]:
        raise UsageError(f"--tensorrt checks the graphs alone; leave out {given[0].replace('_', '-')}")
    profiles = read_profiles(args.height, args.width, args.batch)
    bundle = Bundle.open(args.bundle)
    from kandinsky_export.tensorrt_check import check_bundle

    readiness = check_bundle(bundle, profiles)
    _report(args, readiness.to_dict(), readiness.text())
    return 0 if readiness.ready else 1


def _open_checkpoint(args: argparse.Namespace) -> tuple[Checkpoint, str]:
    """The checkpoint, fetched if need be, and what to call it: its hub name or its folder's name."""
    from kandinsky_export.checkpoint import Checkpoint

    _check_hub_options(args)
    root, name = _fetched(args, args.checkpoint, args.revision, args.weights)
    return Checkpoint.open(root, args.weights), name


def _open_prior(args: argparse.Namespace) -> tuple[PriorCheckpoint | None, str]:
    """The prior, fetched if need be, and what to call it; None where none is asked for."""
    if args.prior is None:
        return None, ""
    from kandinsky_export.prior_checkpoint import PRIOR_FOLDERS, PriorCheckpoint

    root, name = _fetched(args, args.prior, args.prior_revision, args.prior_weights, components=PRIOR_FOLDERS)
    return PriorCheckpoint.open(root, args.prior_weights), name


def _check_hub_options(args: argparse.Namespace) -> None:
    """Refuse options of a hub or of a prior where there is none."""
    if args.prior is None and (args.prior_revision or args.prior_weights):
        raise UsageError("--prior-revision and --prior-weights go with --prior")
    if args.revision and not _is_hub_name(args.checkpoint):
        raise UsageError(f"--hub and --revision go with a hub name, not with the folder {args.checkpoint}")
    if args.prior_revision and not _is_hub_name(args.prior):
        raise UsageError(f"--hub and --prior-revision go with a hub name, not with the folder {args.prior}")
    if args.hub and not any(_is_hub_name(name) for name in (args.checkpoint, args.prior) if name is not None):
        raise UsageError(f"--hub and --revision go with a hub name, not with the folder {args.checkpoint}")


def _is_hub_name(name: str) -> bool:
    from kandinsky_export.hub import looks_like_hub_name

    return looks_like_hub_name(name) and not Path(name).exists()


def _fetched(
    args: argparse.Namespace, name: str, revision: str | None, variant: str | None, **options: Any
) -> tuple[Path, str]:
    """The folder of a checkpoint, fetched with `options` if `name` is a hub's, and what to call it."""
    if not _is_hub_name(name):
        return Path(name), Path(name).resolve().name
    import kandinsky_export.vendors  # noqa: F401 (one that is missing is told before gigabytes are fetched)
    from kandinsky_export.hub import fetch_checkpoint

    root = fetch_checkpoint(
        name,
        hub=args.hub or "huggingface",
        revision=revision,
        variant=variant,
        progress=not args.quiet,
        **options,
    )
    return root, name


def _report(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    sys.stdout.write((json.dumps(data, indent=1) if args.json else text) + "\n")

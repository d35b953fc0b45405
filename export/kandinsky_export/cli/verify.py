"""`k22-export verify`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kandinsky_export.cli.options import names, write_report
from kandinsky_export.cli.sources import add_prior, add_source, open_checkpoint, open_prior
from kandinsky_runtime.cli_support import Parser, add_common_options
from kandinsky_runtime.errors import UsageError


def add_to(commands: argparse._SubParsersAction[Parser], needs_checkpoint: bool) -> None:
    """Add the command; argparse cannot say that an argument is needed only without an option."""
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
    add_source(parser, nargs=None if needs_checkpoint else "?")
    add_prior(parser)
    parser.add_argument(
        "--engines",
        type=names,
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


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)


def _verify(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.pictures.image import check_output_path

    if args.tensorrt:
        return _check_tensorrt(args)
    if args.height or args.width or args.batch:
        raise UsageError("--height, --width and --batch go with --tensorrt")
    bundle = Bundle.open(args.bundle)
    from kandinsky_export.verification.verify import select_engines, verify_bundle

    engine_names = select_engines(bundle, args.engines)
    if args.plot is not None:
        check_output_path(args.plot)
        if not args.steps:
            raise UsageError("--plot draws the trajectory, which --steps 0 leaves out")
    checkpoint, _ = open_checkpoint(args)
    prior, _ = open_prior(args)
    report = verify_bundle(
        bundle, checkpoint, prior=prior, engine_names=engine_names, steps=args.steps, progress=not args.quiet
    )
    if args.plot is not None:
        from kandinsky_export.verification.plot import plot_trajectories

        plot_trajectories(report, args.plot)
    write_report(args, report.to_dict(), report.table(every_step=args.trajectory))
    return 0 if report.passed else 1


def _check_tensorrt(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.engines.profiles import read_profiles

    others = ("checkpoint", "hub", "revision", "weights", "prior", "engines", "trajectory", "plot")
    if given := [name for name in others if getattr(args, name)]:
        raise UsageError(f"--tensorrt checks the graphs alone; leave out {given[0].replace('_', '-')}")
    profiles = read_profiles(args.height, args.width, args.batch)
    bundle = Bundle.open(args.bundle)
    from kandinsky_export.tensorrt.check import check_bundle

    readiness = check_bundle(bundle, profiles)
    write_report(args, readiness.to_dict(), readiness.text())
    return 0 if readiness.ready else 1

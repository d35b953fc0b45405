"""`k22-export verify`."""

from __future__ import annotations

import argparse
from typing import Any

from kandinsky_export.cli.options import names, write_report
from kandinsky_export.cli.sources import add_prior, add_source, open_checkpoint, open_prior
from kandinsky_runtime.cli_support import Parser, add_common_options, path_argument
from kandinsky_runtime.errors import UsageError


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "verify",
        help="compare a bundle with eager ppdiffusers",
        description="Run every component at several shapes, and one whole trajectory, with ppdiffusers and with the"
        " bundle on each engine. The differences are printed and written into the bundle's manifest. Exit status 1 if"
        " one is outside its tolerance.",
        epilog="examples:\n  k22-export verify bundle my-checkpoint --engines onnxruntime,openvino:bf16\n"
        "  k22-export verify bundle my-checkpoint --steps 20 --trajectory --plot trajectory.png\n"
        "  k22-export verify bundle my-checkpoint --prior my-prior\n"
        "  k22-export verify bundle my-checkpoint --vectors vectors.npz",
    )
    parser.add_argument("bundle", type=path_argument, metavar="BUNDLE", help="the bundle's folder")
    add_source(parser)
    add_prior(parser)
    parser.add_argument(
        "--engines",
        type=names,
        metavar="NAMES",
        help="engines to compare, as NAME or NAME:PRECISION, separated by commas (default: all that can run the bundle"
        " here, in fp32)",
    )
    parser.add_argument(
        "--steps",
        type=_count,
        default=10,
        metavar="N",
        help="denoising steps of the trajectory; 0 for no trajectory (default: 10)",
    )
    parser.add_argument("--trajectory", action="store_true", help="print every step of the trajectory")
    parser.add_argument(
        "--plot", type=path_argument, metavar="F.png", help="draw every step of the trajectory into a picture"
    )
    parser.add_argument(
        "--vectors",
        type=path_argument,
        metavar="F.npz",
        help="write the reference's inputs and outputs, to test a program in another language that runs the bundle",
    )
    parser.add_argument("--tensorrt", action=_Moved, nargs=0, help=argparse.SUPPRESS)
    add_common_options(parser)
    parser.set_defaults(run=_verify)


class _Moved(argparse.Action):
    """The option that `k22-export check` has replaced: it names the new command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        parser.error(f"{self.option_strings[0]} is now a command of its own: use k22-export check BUNDLE")


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number of 0 or more")
    return int(text)


def _verify(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.pictures.saving import check_output_path

    bundle = Bundle.open(args.bundle)
    from kandinsky_export.verification.vectors import check_vectors_path
    from kandinsky_export.verification.verify import select_engines, verify_bundle

    engine_names = select_engines(bundle, args.engines)
    if args.plot is not None:
        check_output_path(args.plot)
        if not args.steps:
            raise UsageError("--plot draws the trajectory, and --steps 0 runs none: leave one of the two out")
    if args.vectors is not None:
        check_vectors_path(args.vectors)
    checkpoint, _ = open_checkpoint(args)
    prior, _ = open_prior(args)
    report = verify_bundle(
        bundle,
        checkpoint,
        prior=prior,
        engine_names=engine_names,
        steps=args.steps,
        vectors=args.vectors,
        progress=not args.quiet,
    )
    if args.plot is not None:
        from kandinsky_export.verification.plot import plot_trajectories

        plot_trajectories(report, args.plot)
    write_report(args, report.to_dict(), report.table(every_step=args.trajectory))
    return 0 if report.passed else 1

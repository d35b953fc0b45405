"""`k22-export check`."""

from __future__ import annotations

import argparse

from kandinsky_export.cli.options import write_report
from kandinsky_runtime.cli_support import Parser, add_common_options, path_argument


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="check a bundle's ONNX graphs against TensorRT's published limits",
        description="Check whether TensorRT can take a bundle's ONNX graphs at the given sizes. The check needs no"
        " TensorRT, no GPU and no checkpoint. Give --height, --width and --batch several times for several profiles."
        " Exit status 1 if a graph is not ready.",
        epilog="examples:\n  k22-export check bundle\n"
        "  k22-export check bundle --height 512:768:1024 --width 512:768:1024 --batch 1:2:8",
    )
    parser.add_argument("bundle", type=path_argument, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument(
        "--height",
        action="append",
        metavar="PX",
        help="height of results in pixels, or MIN:OPT:MAX (default: 512:768:1024)",
    )
    parser.add_argument(
        "--width",
        action="append",
        metavar="PX",
        help="width of results in pixels, or MIN:OPT:MAX (default: 512:768:1024)",
    )
    parser.add_argument(
        "--batch", action="append", metavar="N", help="results of one run, or MIN:OPT:MAX (default: 1:1:4)"
    )
    add_common_options(parser)
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.engines.profiles import read_profiles

    profiles = read_profiles(args.height, args.width, args.batch)
    bundle = Bundle.open(args.bundle)
    from kandinsky_export.tensorrt.check import check_bundle

    readiness = check_bundle(bundle, profiles)
    write_report(args, readiness.to_dict(), readiness.text())
    return 0 if readiness.ready else 1

"""`k22 inspect`."""

from __future__ import annotations

import argparse
import json

from kandinsky_runtime.cli.options import add_bundle
from kandinsky_runtime.cli_support import Parser, add_common_options, print_output


def add_to(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inspect",
        help="show what is in a bundle, and what this machine can run of it",
        description="Check a bundle's files against its manifest and describe it.",
        epilog="example: k22 inspect bundle --json",
    )
    add_bundle(parser)
    add_common_options(parser)
    parser.set_defaults(run=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from kandinsky_runtime.bundle.bundle import Bundle
    from kandinsky_runtime.inspection import as_text, describe

    bundle = Bundle.open(args.bundle)
    bundle.check_content(progress=not args.quiet)
    data = describe(bundle)
    print_output(json.dumps(data, indent=1) if args.json else as_text(data))
    return 0

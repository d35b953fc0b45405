"""What the command lines share: options, exit status, and one clear sentence for every error."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from kandinsky_runtime.errors import Kandinsky22Error

INTERRUPTED = 130


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples and gives option names more room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> int:
    """Parse, call the command's `run(args)`, and turn errors of ours into a sentence on stderr and an exit status."""
    args = parser.parse_args(argv)
    logging.basicConfig(format=f"{parser.prog}: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        status: int = args.run(args)
    except Kandinsky22Error as error:
        if args.debug:
            raise
        sys.stderr.write(f"{parser.prog}: error: {error}\n")
        return error.exit_status
    except ModuleNotFoundError as error:
        if args.debug:
            raise
        sys.stderr.write(f"{parser.prog}: error: {error}; pip install 'kandinsky22-deploy[export]'\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted\n")
        return INTERRUPTED
    return status

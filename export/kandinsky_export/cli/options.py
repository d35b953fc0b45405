"""Options and output that several commands share."""

from __future__ import annotations

import argparse
import json
from typing import Any

from kandinsky_runtime.cli_support import Parser, path_argument, print_done, print_output


def add_out(parser: Parser) -> None:
    """Add the new folder."""
    parser.add_argument("--out", type=path_argument, required=True, metavar="DIR", help="the folder to create")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")


def names(text: str) -> tuple[str, ...]:
    """The items of a list that commas separate."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def write_report(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Write the result, `data` with --json, else `text`, to stdout."""
    print_output(json.dumps(data, indent=1) if args.json else text)


def report_files(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Report the files that are the result: `data` with --json, else `text`, which may be lost (`print_done`)."""
    if args.json:
        write_report(args, data, text)
    else:
        print_done(text)

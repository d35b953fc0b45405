"""Options and output that several commands share."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from kandinsky_runtime.cli_support import Parser, path_argument


def add_out(parser: Parser) -> None:
    """Add the new folder."""
    parser.add_argument("--out", type=path_argument, required=True, metavar="DIR", help="the folder to create")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")


def names(text: str) -> tuple[str, ...]:
    """The items of a list that commas separate."""
    return tuple(item.strip() for item in text.split(",") if item.strip())


def write_report(args: argparse.Namespace, data: dict[str, Any], text: str) -> None:
    """Write `data` with --json, else `text`, to stdout."""
    sys.stdout.write((json.dumps(data, indent=1) if args.json else text) + "\n")

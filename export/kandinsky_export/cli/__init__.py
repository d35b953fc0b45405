"""`k22-export`: arguments → one call; each command in a module of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kandinsky_export.cli import bundle, checkpoint, verify
from kandinsky_runtime.cli_support import Parser, run

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
    parser = Parser(
        prog="k22-export",
        description="Turn a Kandinsky 2.2 inpainting checkpoint into a bundle of compiled graphs.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    checkpoint.add_to(commands)
    bundle.add_to(commands)
    verify.add_to(commands, needs_checkpoint)
    return parser

"""`k22-export`: arguments → one call; each command in a module of its own."""

from __future__ import annotations

from collections.abc import Sequence

from kandinsky_export.cli import bundle, check, checkpoint, compare, verify
from kandinsky_runtime.cli_support import Parser, add_version, run

_EPILOG = """\
examples:
  k22-export checkpoint --size tiny --out tiny              random weights, to try everything out
  k22-export bundle tiny --out bundle                       from a folder
  k22-export bundle kandinsky-community/kandinsky-2-2-decoder-inpaint --out bundle
  k22-export bundle tiny --prior tiny-prior --out bundle    with the prior, which makes embeddings of prompts
  k22-export bundle tiny --out lean --variants onnx-fp16    for GPUs: half the bytes
  k22-export verify bundle tiny                             compare with eager ppdiffusers
  k22-export check bundle                                   can TensorRT take the graphs?
  k22-export compare bundle --baseline steps=50 --candidate steps=25 --prompts prompts.txt
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 the work failed, 2 the arguments are wrong, 130 interrupted.

    Raises:
        SystemExit: `--help`, `--version`, or the arguments cannot be parsed.
    """
    return run(_parser(), argv, distribution="kandinsky22-deploy[export]")


def _parser() -> Parser:
    parser = Parser(
        prog="k22-export",
        description="Turn a Kandinsky 2.2 checkpoint into a bundle of compiled graphs.",
        epilog=_EPILOG,
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (checkpoint, bundle, verify, check, compare):
        command.add_to(commands)
    return parser

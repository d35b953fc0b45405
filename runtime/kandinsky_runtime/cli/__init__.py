"""`k22`: arguments → one call; each command in a module of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from kandinsky_runtime.cli import bench, build, embed, generate, inpaint, inspect, schedule, serve, triton
from kandinsky_runtime.cli.outputs import check_outside_bundle
from kandinsky_runtime.cli_support import Parser, add_version, run

_EPILOG = """\
examples:
  k22 inspect bundle
  k22 inpaint bundle --prompt "a hat" --image cat.png --mask mask.png --out cat_with_hat.png
  k22 generate plain-bundle --prompt "a red cat, 4k photo" --out cat.png
  k22 serve bundle
  k22 bench bundle --engine openvino --engine onnxruntime
  k22 build bundle --engine tensorrt --height 512:768:1024 --width 512:768:1024 --batch 1:2:8
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0 done, 1 the work failed, 2 the arguments are wrong, 130 interrupted.

    Raises:
        SystemExit: `--help`, `--version`, or the arguments cannot be parsed.
    """
    return run(_parser(), argv, distribution="kandinsky22-deploy")


def _parser() -> Parser:
    parser = Parser(
        prog="k22",
        description="Run Kandinsky 2.2 from a bundle that k22-export made.",
        epilog=_EPILOG,
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (inpaint, generate, serve, triton, embed, bench, build, inspect, schedule):
        command.add_to(commands)
    for each in commands.choices.values():
        each.set_defaults(run=_checked(each.get_default("run")))
    return parser


def _checked(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A command that leaves the files of its bundle alone."""

    def run_checked(args: argparse.Namespace) -> int:
        check_outside_bundle(args)
        return command(args)

    return run_checked

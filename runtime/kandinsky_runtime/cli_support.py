"""Shared by the command lines: options, exit status, and one clear sentence for every error."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO

from kandinsky_runtime.errors import Kandinsky22Error

FAILED = 1
WRONG_ARGUMENTS = 2
INTERRUPTED = 130


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of examples and gives option names more room."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(text if "\n" in text else textwrap.fill(text, width), width, indent)


class Parser(argparse.ArgumentParser):
    """Accepts options by their full names only, and reports an error in one sentence."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and take a value that begins with a minus for a value, such as `--mask-box -250,0,-1,250`."""
        return super().parse_known_args(self._with_values(sys.argv[1:] if args is None else args), namespace)

    def _with_values(self, args: Sequence[str]) -> list[str]:
        """The arguments with `--option -value` written as `--option=-value`, unless the value is an option, too."""
        joined: list[str] = []
        for arg in args:
            option = self._option_string_actions.get(joined[-1]) if joined and arg.startswith("-") else None
            known = arg == "--" or arg.partition("=")[0] in self._option_string_actions
            if option is not None and option.nargs is None and not known:
                joined[-1] += f"={arg}"
            else:
                joined.append(arg)
        return joined

    def print_help(self, file: Any = None) -> None:
        """Print the text of `--help`; unlike argparse, fail if stdout cannot be written to."""
        if file is None:
            print_output(self.format_help().removesuffix("\n"))
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(WRONG_ARGUMENTS, f"{self.prog}: error: {message}; see {self.prog} --help\n")


class _ShowVersion(argparse.Action):
    """Print the distribution's version, which is looked up only when it is asked for, and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from kandinsky_runtime.distribution import installed

        print_output(f"{parser.prog} {installed()[1]}")
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add `--version`."""
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and exit")


def path_argument(text: str) -> Path:
    """The path of an argument.

    Raises:
        argparse.ArgumentTypeError: it is empty, as that of an unset variable of the shell is.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; expected a file or a folder")
    return Path(text)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every command has."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")


def print_output(text: str) -> None:
    """Write a command's result to stdout.

    Raises:
        BrokenPipeError: the reader has gone.
        Kandinsky22Error: stdout is closed, or cannot be written to.
    """
    with _writing():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def print_done(text: str) -> None:
    """Report on stdout what a command has done; its result is elsewhere, so that a closed stdout is no failure."""
    with suppress(OSError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    _drop_unwritten(sys.stdout)


def printable(line: str) -> str:
    """A line in which control characters are written as escapes: no file name or bundle commands the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None, *, distribution: str) -> int:
    """Parse, call the command's `run(args)`, and turn errors of ours into a sentence on stderr and an exit status.

    Args:
        parser: the parser, whose commands set `run`, a function from the parsed arguments to the exit status.
        argv: the arguments; None for those of the process.
        distribution: pip's name for what to install if a module is missing.

    Returns:
        The exit status: the command's own; 1 if the work failed, 2 if the arguments are wrong, 130 if interrupted.

    Raises:
        SystemExit: `--help`, `--version`, or the arguments cannot be parsed.
    """
    _open_closed_streams()
    _print_any_text()
    debug = False
    try:
        args = parser.parse_args(argv)
        debug = args.debug
        logging.basicConfig(format=f"{parser.prog}: %(message)s", level=logging.WARNING, stream=sys.stderr)
        status: int = args.run(args)
        with _writing():
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _failed(parser, "interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has gone, as in `k22 inspect bundle | head`
        return FAILED
    except (Kandinsky22Error, ModuleNotFoundError, OSError, MemoryError) as error:
        if debug:
            with suppress(OSError):
                traceback.print_exc()
        return _failed(parser, f"error: {_sentence(error, distribution)}", getattr(error, "exit_status", FAILED))
    finally:
        _drop_unwritten(sys.stdout)
        _drop_unwritten(sys.stderr)


def _sentence(error: Exception, distribution: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}: pip install '{distribution}'"
    if isinstance(error, MemoryError):
        return f"out of memory ({error}): work on a smaller picture or fewer results at once"
    return str(error)


def _failed(parser: argparse.ArgumentParser, message: str, status: int) -> int:
    text = "\n".join(map(printable, message.split("\n")))  # lists of faults have several lines
    with suppress(OSError):  # the status remains for whoever has closed stderr
        sys.stderr.write(f"{parser.prog}: {text}\n")
    return status


@contextmanager
def _writing() -> Iterator[None]:
    """Say what is wrong with stdout, where the error of the system names only a descriptor."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror
        raise Kandinsky22Error(
            f"the output cannot be written to stdout: {reason}; send it to a terminal, a pipe, or a file that can be"
            " written"
        ) from error


def _open_closed_streams() -> None:
    """Give the process the standard streams that it was started without, as in `k22 … >&-`.

    Otherwise the next file that is opened gets the descriptor, and what a library writes to stdout ends in a picture.
    Stdout goes on to refuse what is written to it.
    """
    if sys.stdin is None:
        sys.stdin = _null(os.O_RDONLY, "r")
    if sys.stdout is None:
        sys.stdout = _null(os.O_RDONLY, "w")
    if sys.stderr is None:
        sys.stderr = _null(os.O_WRONLY, "w")


def _null(flags: int, mode: Literal["r", "w"]) -> TextIO:
    return os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8", closefd=False)


def _drop_unwritten(stream: TextIO) -> None:
    """Drop what a stream could not write: the interpreter tries again at its exit, and would change the status."""
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):  # a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)


def _print_any_text() -> None:
    """File names may hold what stdout's encoding lacks; stderr copes already."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

"""Shared by tests of the command line: the output of a command, and the files in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


K22 = Callable[..., Result]


def files() -> set[str]:
    """The files in the current folder, without those of the fixtures."""
    return {
        str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] not in ("cache", "site-packages")
    }

"""What tests of the command line share: what a command leaves on the terminal and in the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    status: int
    out: str
    err: str


K22 = Callable[..., Result]


def files() -> set[str]:
    """The files of the current folder, without those of the fixtures."""
    return {
        str(path) for path in Path().rglob("*") if path.is_file() and path.parts[0] not in ("cache", "site-packages")
    }

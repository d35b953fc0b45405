"""Sentences for errors that are not ours: those of the disk, and of the networking libraries."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kandinsky_export.errors import DownloadError


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def disk_errors_explained(folder: Path) -> Iterator[None]:
    """Turn an OSError, which by now can only be the disk's, into a DownloadError."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, str(folder)) from error


def disk_error(error: OSError, place: str) -> DownloadError:
    """One sentence for a disk that is full or cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"the disk is full at {place}: free some space and try again; what came so far is kept and need not be "
            "fetched again"
        )
    return DownloadError(f"{place} cannot be used: {error}; choose another cache folder")

"""What the file system says of a file's state, without reading it."""

from __future__ import annotations

import time
from pathlib import Path

# A file changed twice within one tick of the file system's clock has the same times after the second change.
_SETTLED_NS = 2_000_000_000


def stamp(file: Path) -> list[int]:
    """Size in bytes, times of the last changes in ns, inode and device: it differs after every change.

    Raises:
        OSError: the file cannot be looked at.
    """
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def is_settled(taken: list[int]) -> bool:
    """Whether a change from now on would give a file another stamp than the one taken."""
    _, modified, changed, _, _ = taken
    return time.time_ns() - max(modified, changed) > _SETTLED_NS

"""Files that appear whole, what tells whether a file changed, and the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

_BLOCK = 1 << 20
# A file changed twice within one tick of the file system's clock has the same times after the second change.
_SETTLED_NS = 2_000_000_000


def write_whole(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power failure.

    Args:
        path: where; an existing file is replaced.
        content: text (written as UTF-8), bytes, or a function that writes to a binary stream.

    Raises:
        OSError: it cannot be written; the old content is still there. Errors of `content` pass through likewise.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        with partial.open("xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, where the file system can."""
    if os.name != "posix":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def file_sha256(path: Path, advance: Callable[[int], object] = int) -> str:
    """The sha256 of a file in hex; `advance` is called with the size of each block that was read, in bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def fingerprint(parts: Mapping[str, object]) -> str:
    """A name that differs wherever a part does; parts are what JSON can say, or their `str`."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cache_folder() -> Path | None:
    """Where this package keeps what it can make again: `$XDG_CACHE_HOME/kandinsky22-deploy`, by default `~/.cache`.

    None for a user without a home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG base directory specification ignores relative paths
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "kandinsky22-deploy"

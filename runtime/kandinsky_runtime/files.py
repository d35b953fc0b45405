"""Files that are written whole or not at all, pipes, stamps and hashes that show changes, and the cache folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO

from kandinsky_runtime.errors import InputError

_BLOCK = 1 << 20
# A file changed twice within one tick of the file system's clock has the same times after the second change.
_SETTLED_NS = 2_000_000_000


def write_whole(path: Path, content: str | bytes | Callable[[IO[bytes]], object]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power failure.

    After any error, the old content is still there.

    Args:
        path: the file's path; an existing file is replaced.
        content: a text (written as UTF-8), bytes, or a function that writes to a binary stream.

    Raises:
        OSError: the file cannot be written. Errors that `content` raises pass through.
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


def is_folder(path: Path) -> bool:
    """Whether a path is a folder; False if the system cannot say, because reading the path then gives the reason."""
    try:
        return path.is_dir()
    except OSError:  # the name is too long, or a folder on the way is not accessible
        return False


def read_pipe(path: str | os.PathLike[str], name: str, most: int) -> bytes | None:
    """The content of a pipe or a device, which gives it only once; None for a regular file or a folder.

    Args:
        path: the path.
        name: its name in errors.
        most: the most bytes to accept.

    Raises:
        InputError: the pipe gives more bytes.
        OSError: the path cannot be found or read.
    """
    mode = Path(path).stat().st_mode
    if S_ISREG(mode) or S_ISDIR(mode):
        return None
    content = bytearray()
    with Path(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            content += block
            if len(content) > most:
                raise InputError(
                    f"{name} is a pipe or a device with more than {most:,} bytes; expected less: give a file instead"
                )
    return bytes(content)


def hold(path: Path) -> IO[bytes]:
    """Hold a file that only one process may hold, made if needed, until the stream is closed or the process ends.

    On a file system without locks, nobody is kept away.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened.
    """
    stream = path.open("ab")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK):
            stream.close()
            raise BlockingIOError(errno.EAGAIN, "another process holds it", str(path)) from error
    return stream


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, if the file system can do that."""
    if os.name != "posix":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stamp(file: Path) -> list[int]:
    """A file's size in bytes, times of the last changes in ns, inode and device: it differs after every change.

    Raises:
        OSError: the file cannot be found or accessed.
    """
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]


def is_settled(taken: list[int]) -> bool:
    """Whether any later change of the file would give it a different stamp than this one."""
    _, modified, changed, _, _ = taken
    return time.time_ns() - max(modified, changed) > _SETTLED_NS


def file_sha256(path: Path, advance: Callable[[int], object] = int) -> str:
    """The sha256 of a file, in hex. `advance` is called with the size of each block in bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def fingerprint(parts: Mapping[str, object]) -> str:
    """A name that differs if any part differs. Parts are JSON values; of others, `str` is taken."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cache_folder() -> Path | None:
    """The folder of what this package can make again: `$XDG_CACHE_HOME/kandinsky22-deploy`, by default in `~/.cache`.

    None for a user without a home folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG base directory specification ignores relative paths
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "kandinsky22-deploy"

"""Memory-mapped files that a library reads once and keeps mapped: their pages need not stay in memory."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SECONDS = 0.05
_MADV_DONTNEED = 4  # of Linux


@contextmanager
def drop_mapped_pages(file: Path) -> Iterator[None]:
    """Free the resident pages of the mapped `file`, every 50 ms within the `with` statement and at its end.

    Only read-only shared mappings are touched. A page that is needed again comes back from the kernel's file cache, so
    nothing can be lost. Outside Linux this does nothing.
    """
    drop = _dropper(file)
    if drop is None:
        yield
        return
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SECONDS):
            drop()

    thread = threading.Thread(target=watch, name="kandinsky22-resident", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        drop()


def _dropper(file: Path) -> Callable[[], None] | None:
    """A function that frees the resident pages of a file's mappings; None if that is impossible here."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        stat = file.stat()
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    identity = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}", str(stat.st_ino)

    def drop() -> None:
        try:
            lines = Path("/proc/self/maps").read_bytes().splitlines()
        except OSError:
            return
        for line in lines:
            span, permissions, _, device, inode = line.split()[:5]  # a path may follow
            if (device.decode(), inode.decode()) == identity and permissions == b"r--s":
                start, end = (int(part, 16) for part in span.split(b"-"))
                madvise(start, end - start, _MADV_DONTNEED)

    return drop

"""What belongs to the whole process while pictures are read: warnings, the C library's lines, Pillow's limit.

Several threads may read at once. The first one that enters changes the state, and the last one that leaves restores
it. The lock is held only meanwhile, so that threads decode at the same time.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from PIL import Image

# the beginnings of libtiff's lines: the name of one of its functions or codecs
_TIFF_LINE = re.compile(
    rb"(_?TIFF|ZIP|LZW|O?JPEG|Fax|PixarLog|Log[LU]|LERC|ZSTD|LZMA|WebP|PackBits|Thunder|NeXT|Dump|Predictor|horAcc|fpAcc"
    rb"|swabHorAcc|Estimate|Missing|CheckDir|ChopUp|TryChopUp|allocChoppedUp|setByteArray)\w*: |tempfile\.tif: "
)


class Shared:
    """A context that several threads share: entered by the first one, left by the last one."""

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make, self._lock, self._inside = make, threading.Lock(), 0
        self._entered = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._entered.enter_context(self._make())
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._entered.close()


@contextmanager
def _no_warnings() -> Iterator[None]:
    """No warning, and no record of Pillow's loggers: what is wrong with a picture is an error or a note of ours."""
    pillow = logging.getLogger("PIL")
    level = pillow.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pillow.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            pillow.setLevel(level)


@contextmanager
def _no_tiff_lines() -> Iterator[None]:
    """Drop the lines that libtiff writes to the process's stderr; all other lines follow at the end.

    Without stderr or a folder for temporary files, nothing is dropped.
    """
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):  # the process has no stderr
        yield
        return
    with ExitStack() as held:
        held.callback(os.close, saved)
        try:
            kept = held.enter_context(tempfile.TemporaryFile())
        except OSError:  # no folder for temporary files is writable
            yield
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            kept.seek(0)
            rest = b"".join(line for line in kept if not _TIFF_LINE.match(line))
            if rest:
                os.write(saved, rest)


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


silent_warnings = Shared(_no_warnings)
silent_tiff = Shared(_no_tiff_lines)
no_pixel_limit = Shared(_no_pixel_limit)

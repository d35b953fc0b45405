"""Named pipes for tests of inputs that can be read only once."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def fed_pipe(path: Path, content: bytes) -> Path:
    """A new named pipe, which gives `content` to its first reader."""
    os.mkfifo(path)
    threading.Thread(target=_feed, args=(path, content), daemon=True).start()
    return path


def _feed(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except BrokenPipeError:  # the reader has enough
        return

"""Ways to damage a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def flip_a_byte(file: Path) -> None:
    """Change the content and nothing else that can be kept: neither the size nor the time of change."""
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def append(file: Path) -> None:
    """Let it be longer."""
    file.write_bytes(file.read_bytes() + b"x")


def cut_off(file: Path) -> None:
    """Leave the first half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scramble(file: Path) -> None:
    """Change many bytes, but none near the begin."""
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    data[len(data) // 3 :: 7] ^= 0x55
    file.write_bytes(data.tobytes())


def empty(file: Path) -> None:
    """Leave nothing in it."""
    file.write_bytes(b"")

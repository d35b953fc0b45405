"""Ways to damage a file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def flip_a_byte(file: Path) -> None:
    """Change the content, but neither the size nor the time of modification."""
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def append(file: Path) -> None:
    """Make the file longer."""
    file.write_bytes(file.read_bytes() + b"x")


def cut_off(file: Path) -> None:
    """Keep only the first half."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def scramble(file: Path) -> None:
    """Change many bytes, but none in the first third."""
    data = np.frombuffer(file.read_bytes(), np.uint8).copy()
    data[len(data) // 3 :: 7] ^= 0x55
    file.write_bytes(data.tobytes())


def empty(file: Path) -> None:
    """Make the file empty."""
    file.write_bytes(b"")

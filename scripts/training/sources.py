"""Which model a file was made from: a digest in a file next to it. Files of an earlier model are found by it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def digest_of(weights: Mapping[str, Any], parts: tuple[str, ...] = ("",)) -> str:
    """Return a digest of the names and values of weights.

    Args:
        weights: arrays, or tensors of a type that numpy has.
        parts: the starts of the names that take part.
    """
    sha = hashlib.sha256()
    for name in sorted(weights):
        if name.startswith(parts):
            values = np.asarray(weights[name])
            sha.update(f"{name} {values.dtype} {values.shape} ".encode())
            sha.update(values.tobytes())
    return sha.hexdigest()


def is_from(path: Path, digest: str) -> bool:
    """Return whether a file is there and was made from the weights of this digest."""
    note = _note(path)
    return path.exists() and note.exists() and note.read_text(encoding="utf-8").strip() == digest


def make_from(path: Path, digest: str, write: Callable[[Path], None]) -> None:
    """Make a file from the weights of a digest, by `write`, and note the digest. A reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        print(f"{path.name} is made again: it was made from other weights, or from unknown ones", flush=True)
    _note(path).unlink(missing_ok=True)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    write(partial)
    partial.replace(path)
    _note(path).write_text(digest + "\n", encoding="utf-8")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.source")

"""The small trained checkpoints that come with this package, by names that need no network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

FOLDER = "drawn_cats"
DECODER, PRIOR = "drawn-cats/decoder-inpaint", "drawn-cats/prior"


def shipped_checkpoint(name: str) -> Path | None:
    """The folder of a checkpoint that comes with the package; None for another name."""
    if name not in (DECODER, PRIOR):
        return None
    return Path(str(files("kandinsky_export"))) / FOLDER / name.partition("/")[2]

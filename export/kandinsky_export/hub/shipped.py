"""The small trained checkpoints that come with this package, by names that need no network."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from kandinsky_runtime.errors import UsageError

FOLDER = "drawn_cats"
_OWNER = "drawn-cats"
DECODER, PRIOR = f"{_OWNER}/decoder-inpaint", f"{_OWNER}/prior"


def shipped_checkpoint(name: str) -> Path | None:
    """The folder of a checkpoint that comes with the package; None for another name.

    Raises:
        UsageError: the name is nearly one of them; no hub is asked for such names.
    """
    if name not in (DECODER, PRIOR):
        if name.lower().replace("_", "-").partition("/")[0] == _OWNER:
            raise UsageError(f"there is no checkpoint {name}; with this package come {DECODER} and {PRIOR}")
        return None
    return Path(str(files("kandinsky_export"))) / FOLDER / name.partition("/")[2]

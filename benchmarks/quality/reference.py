"""The baseline's outcomes on disk, so that settings can be compared with them on another day.

Legend: N results · T steps · C latent channels · h, w latent height and width · H, W pixels
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kandinsky_export.comparison.runs import Outcome
from kandinsky_runtime.files import write_whole

FOLLOWED = 20
"""The first results, whose latents are kept after every step; of the others, the last ones are."""
_LEVELS = 65535  # a picture of 16 bits: 107 dB from the float32 one


@dataclass(frozen=True)
class Reference:
    """The baseline's outcomes.

    Attributes:
        name: changes if anything does that they depend on.
        arrays: `pictures` (N, H, W, 3) uint16, `last` (N, C, h, w), `followed` (n, T, C, h, w) and, for inpainting,
            `cells` (N, 1, h, w).
    """

    name: str
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["pictures"])

    def outcome(self, number: int) -> Outcome:
        """One result's outcome, without its time."""
        followed, cells = self.arrays["followed"], self.arrays.get("cells")
        rows = followed[number] if number < len(followed) else self.arrays["last"][number : number + 1]
        return Outcome(
            tuple(row[None] for row in rows),
            None if cells is None else cells[number : number + 1],
            self.arrays["pictures"][number].astype(np.float32) / np.float32(_LEVELS),
            0.0,
        )

    def save(self, path: Path) -> None:
        """Write it whole."""
        write_whole(path, lambda stream: np.savez(stream, name=np.array(self.name), **self.arrays))

    @classmethod
    def load(cls, path: Path, name: str) -> Reference | None:
        """Read it; None if it is not there, or another one is."""
        arrays = read_arrays(path)
        return cls(name, arrays) if arrays is not None and str(arrays.pop("name", "")) == name else None


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an .npz; None if it is not there or damaged."""
    try:
        # numpy leaves a file that it opened itself open after some errors
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def reference_of(name: str, outcomes: Sequence[Outcome]) -> Reference:
    """The reference that the baseline's outcomes make."""
    arrays = {
        "pictures": np.stack([np.rint(item.picture * _LEVELS).astype(np.uint16) for item in outcomes]),
        "last": np.concatenate([item.latents[-1] for item in outcomes]),
        "followed": np.stack([np.concatenate(item.latents) for item in outcomes[:FOLLOWED]]),
    }
    cells = [item.cells for item in outcomes if item.cells is not None]
    return Reference(name, arrays | ({"cells": np.concatenate(cells)} if cells else {}))


def shortened(outcome: Outcome, number: int) -> Outcome:
    """An outcome with as many latents as a reference keeps of result `number`."""
    if number < FOLLOWED:
        return outcome
    return Outcome(outcome.latents[-1:], outcome.cells, outcome.picture, outcome.seconds)

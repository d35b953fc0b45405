"""The judge's network in numpy: five convolutions and two matrix products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from benchmarks.judge.reading import Reading

SIDE = 96  # pixels that the network looks at
# Channels, side of the window and stride of each convolution.
CONVOLUTIONS = ((16, 5, 2), (32, 3, 2), (48, 3, 2), (64, 3, 1), (96, 3, 2))
NARROW, FEATURES = 32, 128

_WEIGHTS = Path(__file__).parent / "weights.npz"


class Judge:
    """Reads pictures. `weights` holds what `scripts/train judge` wrote, by name."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = {name: value.astype(np.float32) for name, value in weights.items()}

    @classmethod
    def load(cls, path: Path = _WEIGHTS) -> Judge:
        """Open the shipped judge, or another.

        Raises:
            FileNotFoundError: the file is not there; `scripts/train judge` makes it.
        """
        # numpy leaves a file that it opened itself open after some errors
        with path.open("rb") as file, np.load(file) as arrays:
            return cls(dict(arrays))

    def read(self, pictures: np.ndarray) -> list[Reading]:
        """Read pictures (n, height, width, 3) uint8, square."""
        return [Reading.of(row) for row in self.outputs(self.features(pictures))]

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """Return pictures (n, height, width, 3) uint8 as features (n, FEATURES) float32, for a Fréchet distance."""
        x = reduced(pictures).astype(np.float32) / 127.5 - 1  # (n, SIDE, SIDE, 3)
        w = self._weights
        for index, (_, side, stride) in enumerate(CONVOLUTIONS):
            x = np.maximum(_convolve(x, w[f"conv{index}.weight"], side, stride) + w[f"conv{index}.bias"], 0)
        x = np.maximum(x @ w["narrow.weight"] + w["narrow.bias"], 0)  # (n, 6, 6, NARROW)
        return np.maximum(x.reshape(len(x), -1) @ w["features.weight"] + w["features.bias"], 0)

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """Return the numbers that `Reading.of` reads, (n, OUTPUTS)."""
        made: np.ndarray = features @ self._weights["outputs.weight"] + self._weights["outputs.bias"]
        return made


def reduced(pictures: np.ndarray) -> np.ndarray:
    """Resize pictures (n, height, width, 3) uint8 to the network's size with a box filter."""
    if pictures.shape[1:3] == (SIDE, SIDE):
        return pictures
    return np.stack([np.asarray(Image.fromarray(p).resize((SIDE, SIDE), Image.Resampling.BOX)) for p in pictures])


def _convolve(x: np.ndarray, weight: np.ndarray, side: int, stride: int) -> np.ndarray:
    """Convolve (n, h, w, c) with `weight` (c · side · side, channels), the edges padded with zeros."""
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = sliding_window_view(padded, (side, side), axis=(1, 2))[
        :, ::stride, ::stride
    ]  # (n, h', w', c, side, side)
    made: np.ndarray = windows.reshape(*windows.shape[:3], -1) @ weight
    return made

"""Limits that keep a predicted x_0 within the range of pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kandinsky_runtime.sampling.schedulers.schedule import Float32


@dataclass(frozen=True)
class Clip:
    """Keeps predictions within [-bound, bound]."""

    bound: float

    def apply(self, prediction: Float32, scratch: Float32) -> None:
        """Clip `prediction` in place."""
        np.clip(prediction, -self.bound, self.bound, out=prediction)


@dataclass(frozen=True)
class Threshold:
    """Dynamic thresholding: section 2.3 of Imagen (Saharia et al. 2022, arXiv:2205.11487).

    Each sample is clipped to [-s, s] and divided by s. s is the `ratio` quantile of the sample's absolute values,
    limited to [1, highest].
    """

    ratio: float
    highest: float

    def apply(self, prediction: Float32, scratch: Float32) -> None:
        """Threshold `prediction` (B, …) in place; `scratch`, of its shape, is overwritten."""
        rows = np.abs(prediction, out=scratch).reshape(len(prediction), -1)  # (B, C·…)
        rank = float(np.float32(self.ratio) * np.float32(rows.shape[1] - 1))
        low = min(int(rank), rows.shape[1] - 1)
        high = min(low + 1, rows.shape[1] - 1)
        rows.partition((low, high), axis=1)
        for sample, row in zip(prediction, rows, strict=True):
            quantile = float(row[low]) + (rank - low) * float(row[high] - row[low])
            bound = min(max(quantile, 1.0), self.highest)
            np.clip(sample, -bound, bound, out=sample)
            sample /= np.float32(bound)

"""The ratio of a result to its error, in decibels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def decibels(want: npt.NDArray[Any], got: npt.NDArray[Any], peak: float | None = None) -> float:
    """The power of `want` over that of the difference, in dB; infinite if the two are equal.

    Args:
        want, got: arrays of one shape.
        peak: a value whose square takes the place of the power of `want`: the result is a PSNR. None for the power.
    """
    power = float(np.square(want, dtype=np.float64).mean()) if peak is None else peak**2
    lost = float(np.square(np.subtract(got, want, dtype=np.float64)).mean())
    return 10 * math.log10(power / lost) if lost else math.inf

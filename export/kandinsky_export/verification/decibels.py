"""How far a result lies above its error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def decibels(want: npt.NDArray[Any], got: npt.NDArray[Any], peak: float | None = None) -> float:
    """The power of `want` over that of the difference, in dB; infinite where there is none.

    Args:
        want, got: of one shape.
        peak: take the PSNR instead: the square of this value over the mean square of the difference.
    """
    power = float(np.square(want, dtype=np.float64).mean()) if peak is None else peak**2
    lost = float(np.square(np.subtract(got, want, dtype=np.float64)).mean())
    return 10 * math.log10(power / lost) if lost else math.inf

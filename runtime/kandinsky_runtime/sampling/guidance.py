"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) on the halves of one batch.

Legend: B samples · C latent channels · K output channels of the UNet, C or 2C (prediction, then variance) · h, w
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import UsageError

Array = npt.NDArray[np.float32]


def is_guided(guidance_scale: float) -> bool:
    """Whether a scale turns guidance on: above 1, as in diffusers. Otherwise the prediction is used unchanged."""
    return guidance_scale > 1


@dataclass(frozen=True)
class Interval:
    """The noise levels at which guidance acts (Kynkäänniemi et al. 2024, arXiv:2404.07724): σ_lo < σ ≤ σ_hi.

    σ is the noise's standard deviation divided by the signal's scale, √((1 - ᾱ) / ᾱ).

    Attributes:
        low, high: σ_lo and σ_hi; high may be infinite.
    """

    low: float
    high: float

    @classmethod
    def checked(cls, value: Any, guidance_scale: float) -> Interval | None:
        """The interval (low, high); None for None, which means guidance at every step.

        Raises:
            UsageError: the value is not two numbers with 0 <= low < high, or guidance is off.
        """
        if value is None:
            return None
        numbers = list(value) if isinstance(value, (list, tuple)) else []
        if not (len(numbers) == 2 and all(_is_number(item) for item in numbers) and 0 <= numbers[0] < numbers[1]):
            raise UsageError(
                f"guidance_interval is {value!r}; expected two noise levels, the lower one first, such as (0.3, 5)"
            )
        if not is_guided(guidance_scale):
            raise UsageError(
                f"guidance_interval needs guidance, but guidance_scale is {guidance_scale:g}: give a scale above 1 or"
                " leave guidance_interval out"
            )
        return cls(float(numbers[0]), float(numbers[1]))

    def holds(self, sigma: float) -> bool:
        """Whether guidance acts at noise level σ."""
        return self.low < sigma <= self.high

    def check_steps(self, sigmas: Sequence[float]) -> None:
        """Raise UsageError if the interval contains none of a run's noise levels."""
        if not any(map(self.holds, sigmas)):
            raise UsageError(
                f"guidance_interval is {self.low:g} to {self.high:g}, which contains no step of this run; its noise"
                f" levels go from {max(sigmas):.3g} down to {min(sigmas):.3g}"
            )


def combine(model_output: Array, guidance_scale: float, channels: int, out: Array) -> Array:
    """Mix the unconditional and the conditional half.

    Equation 2 of Imagen (Saharia et al. 2022, arXiv:2205.11487): ε̃ = ε(∅) + w·(ε(c) - ε(∅)). The variance channels
    are the conditional half's, unmixed.

    Args:
        model_output: (2B, K, h, w), the halves in the order [negative, positive]; never modified.
        guidance_scale: w.
        channels: the number C of prediction channels among the K channels.
        out: the array to write to, (B, C, h, w), or (B, K, h, w) to include the variance. It must not overlap
            `model_output`.

    Returns:
        `out`.
    """
    negative, positive = model_output[: len(out)], model_output[len(out) :]  # each (B, K, h, w)
    prediction = out[:, :channels]
    with np.errstate(over="ignore", invalid="ignore"):  # the scheduler refuses and locates non-finite values
        np.subtract(positive[:, :channels], negative[:, :channels], out=prediction)
        prediction *= guidance_scale
        prediction += negative[:, :channels]
    out[:, channels:] = positive[:, channels : out.shape[1]]
    return out


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)

"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) on the halves of one batch.

Legend: B samples · C latent channels · K output channels of the UNet, C or 2C (prediction, then variance) · h, w
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import InputError

Array = npt.NDArray[np.float32]

_LARGEST = float(np.finfo(np.float32).max)


def is_guided(guidance_scale: float) -> bool:
    """Whether a scale asks for guidance: above 1, as in the reference; else the prediction is used as it is."""
    return guidance_scale > 1


def check_scale(guidance_scale: Any) -> float:
    """The scale as a float.

    Raises:
        InputError: it is no number, negative, NaN, or infinite in float32.
    """
    is_number = isinstance(guidance_scale, (int, float, np.integer, np.floating)) and not isinstance(
        guidance_scale, bool
    )
    if not is_number or not 0 <= guidance_scale <= _LARGEST:
        raise InputError(f"guidance_scale is {guidance_scale!r}; expected a finite number of at least 0")
    return float(guidance_scale)


def combine(model_output: Array, guidance_scale: float, channels: int, out: Array) -> Array:
    """Mix the unconditional and the conditional half.

    Equation 2 of Imagen (Saharia et al. 2022, arXiv:2205.11487): ε̃ = ε(∅) + w·(ε(c) - ε(∅)). The variance channels
    are the conditional half's, unmixed.

    Args:
        model_output: (2B, K, h, w), the halves in the order [negative, positive]; never modified.
        guidance_scale: w.
        channels: C, how many of the K channels are the prediction.
        out: where to write, (B, C, h, w); or (B, K, h, w) to have the variance too. No part of `model_output`.

    Returns:
        `out`.
    """
    negative, positive = model_output[: len(out)], model_output[len(out) :]  # each (B, K, h, w)
    prediction = out[:, :channels]
    with np.errstate(over="ignore", invalid="ignore"):  # the scheduler refuses what is not finite, and says where
        np.subtract(positive[:, :channels], negative[:, :channels], out=prediction)
        prediction *= guidance_scale
        prediction += negative[:, :channels]
    out[:, channels:] = positive[:, channels : out.shape[1]]
    return out

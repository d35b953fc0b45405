"""Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598) on the halves of one batch.

Legend: B samples · C latent channels · K output channels of the UNet, C or 2C (prediction, then variance) · h, w
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import InputError

Array = npt.NDArray[np.float32]


def is_guided(guidance_scale: float) -> bool:
    """Whether a scale asks for guidance: above 1, as in the reference; at 1 and below the prediction is used as it is."""
    return guidance_scale > 1


def check_scale(guidance_scale: float) -> float:
    """The scale as a float.

    Raises:
        InputError: it is negative, NaN or infinite.
    """
    scale = float(guidance_scale)
    if not np.isfinite(scale) or scale < 0:
        raise InputError(f"guidance_scale is {guidance_scale}; it must be a finite number of at least 0")
    return scale


def combine(model_output: Array, guidance_scale: float, channels: int) -> Array:
    """Mix the unconditional and the conditional half, in place.

    Equation 2 of Imagen (Saharia et al. 2022, arXiv:2205.11487): ε̃ = ε(∅) + w·(ε(c) - ε(∅)). The variance channels
    are the conditional half's, unmixed.

    Args:
        model_output: (2B, K, h, w), the halves in the order [negative, positive]; its content is used up.
        guidance_scale: w.
        channels: C, how many of the K channels are the prediction.

    Returns:
        (B, K, h, w), a view of `model_output`.
    """
    batch = len(model_output) // 2
    negative = model_output[:batch, :channels]
    guided = model_output[batch:]
    prediction = guided[:, :channels]
    prediction -= negative
    prediction *= np.float32(guidance_scale)
    prediction += negative
    return guided

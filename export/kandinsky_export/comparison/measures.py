"""Measures of a result against a reference of the same noise; numpy only.

Legend: H, W height and width of a picture in pixels · C channels · h, w latent cells
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.verification.decibels import decibels

Array = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating[Any]]
Area = npt.NDArray[np.bool_]

EDGE = 4
"""Width of the bands along a mask's edge, in pixels."""

_SIGMA, _RADIUS = 1.5, 5
_STABLE = (0.01**2, 0.03**2)  # C₁ and C₂ for values in [0, 1]


def latents_psnr(want: Array, got: Array, cells: Area | None = None) -> float:
    """PSNR in dB of latents (1, C, h, w), with the span of the wanted ones as the peak; infinite if they are equal.

    Args:
        want, got: latents of the reference and of the result.
        cells: (1, 1, h, w), the cells that count; None for all.
    """
    if cells is not None:
        chosen = np.broadcast_to(cells, want.shape)
        want, got = want[chosen], got[chosen]
    return decibels(want, got, float(np.ptp(want)) or 1.0)


def picture_psnr(want: Floats, got: Floats, area: Area | None = None) -> float:
    """PSNR in dB of pictures (H, W, 3) in [0, 1] within an area (H, W); infinite if they are equal there."""
    return decibels(want, got, 1) if area is None else decibels(want[area], got[area], 1)


def ssim(want: Floats, got: Floats, area: Area | None = None) -> float:
    """Mean structural similarity of pictures (H, W, 3) in [0, 1] over the pixels of an area (H, W).

    Wang et al., Image quality assessment: from error visibility to structural similarity, 2004, eq. 13, for each
    channel: a Gaussian window of 11 pixels with σ = 1.5. At the picture's border the window sees it mirrored.
    """
    values = ssim_map(want, got).mean(axis=-1)  # (H, W)
    return float(values.mean() if area is None else values[area].mean())


def ssim_map(want: Floats, got: Floats) -> npt.NDArray[np.float64]:
    """Structural similarity at every value of pictures (H, W, C) in [0, 1]."""
    x, y = want.astype(np.float64), got.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = _STABLE
    result: npt.NDArray[np.float64] = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return result


def edge_bands(mask: Floats, width: int = EDGE) -> tuple[Area, Area]:
    """The pixels along a mask's edge: inside of it and outside, each (H, W).

    A pixel belongs to a band if a pixel of the other side is at most `width` rows and columns away.

    Args:
        mask: (H, W), 1 to repaint, 0 to keep.
        width: the width of each band in pixels.
    """
    repainted = mask > 0
    return repainted & _grown(~repainted, width), ~repainted & _grown(repainted, width)


def difference(want: Floats, got: Floats, area: Area) -> float | None:
    """Mean absolute difference of pictures (H, W, 3) in [0, 1] within an area (H, W), in levels of 255.

    None for an empty area.
    """
    if not area.any():
        return None
    return float(np.abs(np.subtract(got[area], want[area], dtype=np.float64)).mean() * 255)


def _blurred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """A Gaussian blur of (H, W, C) along the first two axes."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        margins = [(0, 0)] * 3
        margins[axis] = (_RADIUS, _RADIUS)
        padded = np.pad(values, margins, mode="symmetric")
        size = values.shape[axis]
        shifted = (padded.take(range(start, start + size), axis) for start in range(len(weights)))
        values = sum((w * part for w, part in zip(weights, shifted, strict=True)), np.zeros_like(values))
    return values


def _grown(area: Area, width: int) -> Area:
    """The area with everything that is at most `width` rows and columns away."""
    for axis in (0, 1):
        grown = area.copy()
        for shift in range(1, width + 1):
            near, far = [slice(None)] * 2, [slice(None)] * 2
            near[axis], far[axis] = slice(None, -shift), slice(shift, None)
            grown[tuple(near)] |= area[tuple(far)]
            grown[tuple(far)] |= area[tuple(near)]
        area = grown
    return area

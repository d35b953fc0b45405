"""Masks as people draw them: a box around a thing, boxes anywhere, brush strokes, the whole picture.

A mask is drawn at four pixels a latent cell, True where the picture is repainted.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.drawings.canvas import Box
from scripts.training.settings import LATENT

_CELL = 4
_SIDE = LATENT * _CELL


def mask_around(rng: np.random.Generator, boxes: list[Box]) -> np.ndarray:
    """Cover all the boxes with a rectangle or an ellipse, with margins drawn by lot; (side, side) bool."""
    left, top = np.min([box[:2] for box in boxes], axis=0)
    right, bottom = np.max([box[2:] for box in boxes], axis=0)
    wide = 0.22 if rng.uniform() < 0.35 else 0.08
    margins = rng.uniform(0.005, wide, size=4)
    x0, y0, x1, y1 = left - margins[0], top - margins[1], right + margins[2], bottom + margins[3]
    image = Image.new("1", (_SIDE, _SIDE))
    if rng.uniform() < 0.25:
        # The ellipse through the rectangle's corners.
        cx, cy, rx, ry = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2 * 2**0.5, (y1 - y0) / 2 * 2**0.5
        ImageDraw.Draw(image).ellipse([_SIDE * v for v in (cx - rx, cy - ry, cx + rx, cy + ry)], fill=1)
    else:
        ImageDraw.Draw(image).rectangle([_SIDE * v for v in (x0, y0, x1, y1)], fill=1)
    return np.asarray(image)


def random_mask(rng: np.random.Generator) -> np.ndarray:
    """Draw boxes, brush strokes or, now and then, everything; (side, side) bool."""
    image = Image.new("1", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(image)
    chance = rng.uniform()
    if chance < 0.2:
        return np.ones((_SIDE, _SIDE), bool)
    if chance < 0.6:
        for _ in range(rng.integers(1, 3)):
            width, height = rng.uniform(0.15, 0.6, size=2)
            x, y = rng.uniform(-0.1, 1.1 - width), rng.uniform(-0.1, 1.1 - height)
            draw.rectangle([_SIDE * v for v in (x, y, x + width, y + height)], fill=1)
        return np.asarray(image)
    for _ in range(rng.integers(1, 4)):
        width = rng.uniform(0.08, 0.22) * _SIDE
        points = [rng.uniform(0.1, 0.9, size=2)]
        for _ in range(rng.integers(1, 5)):
            points.append((points[-1] + rng.normal(0, 0.2, size=2)).clip(0, 1))
        xy = [(float(x) * _SIDE, float(y) * _SIDE) for x, y in points]
        draw.line(xy, fill=1, width=round(width), joint="curve")
        for x, y in xy:
            draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=1)
    return np.asarray(image)


def kept_cells(mask: np.ndarray) -> np.ndarray:
    """Return which latent cells are kept, as the pipeline makes it; (latent, latent) float32, 1 where kept.

    Nearest neighbour, then the repainted area grows by a cell in six of the eight directions.
    """
    repaint = mask[::_CELL, ::_CELL]
    grown = repaint.copy()
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1)):
        moved = np.zeros_like(repaint)
        rows, columns = _overlap(dy), _overlap(dx)
        moved[rows[0], columns[0]] = repaint[rows[1], columns[1]]
        grown |= moved
    return 1 - grown.astype(np.float32)


def _overlap(shift: int) -> tuple[slice, slice]:
    """Return the slices (target, source) that move an axis by `shift` cells."""
    return slice(max(shift, 0), min(shift, 0) or None), slice(max(-shift, 0), min(-shift, 0) or None)

"""A scene turned into a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.drawings.backgrounds import draw_background, draw_ground_shadow
from benchmarks.drawings.canvas import Box, Canvas
from benchmarks.drawings.cat import draw_cat
from benchmarks.drawings.scene import Scene
from benchmarks.drawings.things import draw_around, draw_moon, draw_worn

SIZE = 192


@dataclass(frozen=True)
class Drawing:
    """A picture and where its things are.

    Attributes:
        pixels: (size, size, 3) uint8.
        boxes: for each thing that is there, by its name in `THINGS`: left, top, right, bottom in [0, 1].
    """

    pixels: np.ndarray
    boxes: dict[str, Box]


def draw(scene: Scene, size: int = SIZE) -> Drawing:
    """Draw a scene at `size` × `size` pixels."""
    canvas = Canvas(size)
    draw_background(canvas, scene)
    draw_moon(canvas, scene)
    draw_ground_shadow(canvas, scene)
    draw_cat(canvas, scene)
    draw_worn(canvas, scene)
    draw_around(canvas, scene)
    return Drawing(canvas.finish(), canvas.boxes)


def box_above_eyes(scene: Scene, size: int = SIZE) -> np.ndarray:
    """A mask of the place of a hat: a box from above the cat's head to its eyes, (size, size) uint8 of 0 and 255."""
    mask = np.zeros((size, size), np.uint8)
    x, y, r = scene.x * size, scene.y * size, scene.head * size
    rows = slice(max(0, round(y - 2.5 * r)), round(y - 0.28 * r))
    mask[rows, max(0, round(x - 1.3 * r)) : round(x + 1.3 * r)] = 255
    return mask

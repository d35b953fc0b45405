"""A canvas with smooth edges: shapes are drawn at four times the size and reduced.

Lengths and positions are fractions of the picture's side; x grows to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.drawings.palette import RGB

OVERSAMPLING = 4

Points = np.ndarray  # (n, 2) float64
Box = tuple[float, float, float, float]  # left, top, right, bottom


def smooth(points: Sequence[tuple[float, float]] | Points, *, closed: bool = True, steps: int = 7) -> Points:
    """Sample a Catmull-Rom spline through `points`."""
    p = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    if not closed:
        pieces.append(p[-1:])
    return np.concatenate(pieces)


def ellipse(x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, count: int = 44) -> Points:
    """Sample an ellipse turned by `turn` radians."""
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)
    u, v = rx * np.cos(t), ry * np.sin(t)
    return np.stack([x + u * np.cos(turn) - v * np.sin(turn), y + u * np.sin(turn) + v * np.cos(turn)], axis=1)


@dataclass(frozen=True)
class Frame:
    """A coordinate system of its own on the canvas: scaled, turned by `turn` radians, and moved to (x, y)."""

    x: float
    y: float
    scale: float
    turn: float = 0.0
    mirrored: bool = False

    def __call__(self, points: Sequence[tuple[float, float]] | Points) -> Points:
        p = np.array(points, dtype=np.float64)
        if self.mirrored:
            p[:, 0] = -p[:, 0]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return self.scale * p @ np.array([[cos, sin], [-sin, cos]]) + (self.x, self.y)


class Canvas:
    """A square picture being drawn. `part` records the bounding box of what is drawn inside it."""

    def __init__(self, size: int) -> None:
        self._side = size * OVERSAMPLING
        self._size = size
        self._image = Image.new("RGB", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._image)
        self._origin = (0, 0)
        self._extents: list[np.ndarray] | None = None
        self.boxes: dict[str, Box] = {}

    def gradient(self, colours: Sequence[tuple[float, RGB]], top: float = 0.0, bottom: float = 1.0) -> None:
        """Fill the full width between `top` and `bottom` with colours given at positions in [0, 1] from top down."""
        first, last = round(top * self._side), round(bottom * self._side)
        at = (np.arange(first, last) + 0.5) / self._side
        stops, values = zip(*colours, strict=True)
        columns = [np.interp((at - top) / max(bottom - top, 1e-9), stops, c) for c in np.array(values).T]
        column = Image.fromarray(np.stack(columns, axis=-1).round().astype(np.uint8)[:, None])
        self._image.paste(column.resize((self._side, last - first)), (0, first))

    def shape(self, points: Points, fill: RGB | None, outline: RGB | None = None, width: float = 0.0) -> None:
        """Fill a polygon and draw its outline."""
        xy = self._pixels(points, width)
        if fill is not None:
            self._draw.polygon(xy, fill=_rounded(fill))
        if outline is not None and width > 0:
            self._stroke([*xy, xy[0], xy[1]], outline, width)

    def line(self, points: Points, colour: RGB, width: float) -> None:
        """Draw a line with round ends."""
        xy = self._pixels(points, width)
        self._stroke(xy, colour, width)
        radius = width * self._side / 2
        for x, y in (xy[0], xy[-1]):
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_rounded(colour))

    @contextmanager
    def inside(self, points: Points, opacity: float = 1.0) -> Iterator[None]:
        """Clip what is drawn in this context to a polygon; `opacity` in [0, 1] blends it with what was there."""
        xy = self._pixels(points, 0.0)
        xs, ys = zip(*xy, strict=True)
        width, height = self._image.size
        left, top = max(0, int(min(xs)) - 1), max(0, int(min(ys)) - 1)
        right, bottom = min(width, int(max(xs)) + 2), min(height, int(max(ys)) + 2)
        # A cut-out of the picture takes what is drawn: small, and nothing is drawn beyond it.
        outer = (self._image, self._draw, self._origin, self._extents)
        cut = outer[0].crop((left, top, max(right, left + 1), max(bottom, top + 1)))
        self._image, self._draw = cut, ImageDraw.Draw(cut)
        self._origin, self._extents = (outer[2][0] + left, outer[2][1] + top), None
        yield
        self._image, self._draw, self._origin, self._extents = outer
        mask = Image.new("L", cut.size, 0)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in xy], fill=round(255 * opacity))
        self._image.paste(cut, (left, top), mask)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Record the bounding box of what is drawn in this context, clipped to the picture, as `boxes[name]`."""
        self._extents = []
        yield
        low = np.min([e[0] for e in self._extents], axis=0).clip(0, 1)
        high = np.max([e[1] for e in self._extents], axis=0).clip(0, 1)
        self._extents = None
        self.boxes[name] = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def finish(self) -> np.ndarray:
        """Return the picture: (size, size, 3) uint8."""
        return np.asarray(self._image.reduce(OVERSAMPLING))

    def _pixels(self, points: Points, width: float) -> list[tuple[float, float]]:
        if self._extents is not None:
            self._extents.append(np.stack([points.min(axis=0) - width / 2, points.max(axis=0) + width / 2]))
        return [(x, y) for x, y in (points * self._side - self._origin).tolist()]

    def _stroke(self, xy: list[tuple[float, float]], colour: RGB, width: float) -> None:
        self._draw.line(xy, fill=_rounded(colour), width=max(1, round(width * self._side)), joint="curve")


def _rounded(colour: RGB) -> tuple[int, int, int]:
    r, g, b = (max(0, min(255, round(c))) for c in colour)
    return (r, g, b)

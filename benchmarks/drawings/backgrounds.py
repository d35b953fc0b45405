"""The places: each fills the whole picture behind moon, cat and things."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from benchmarks.drawings.canvas import Canvas, Points, ellipse, smooth
from benchmarks.drawings.palette import RGB, mix, shade
from benchmarks.drawings.scene import Scene

_T = TypeVar("_T")

_DAY_SKIES: tuple[tuple[RGB, RGB], ...] = (
    ((122, 190, 236), (214, 238, 250)),
    ((246, 178, 150), (254, 230, 196)),
    ((150, 206, 214), (240, 246, 222)),
    ((184, 176, 226), (250, 220, 226)),
)
_NIGHT_SKIES: tuple[tuple[RGB, RGB], ...] = (
    ((34, 44, 92), (86, 98, 160)),
    ((40, 34, 84), (128, 92, 150)),
    ((22, 52, 82), (70, 124, 146)),
)
_GRASS: tuple[RGB, ...] = ((124, 190, 98), (150, 200, 104), (98, 172, 112))
_WALLS: tuple[RGB, ...] = ((250, 224, 188), (200, 224, 222), (236, 206, 212), (214, 210, 236), (206, 224, 190))
_FLOORS: tuple[RGB, ...] = ((196, 144, 104), (170, 122, 92), (214, 172, 128))


# By pose, in radii of the head: the shadow's middle from the head's, its depth below it, and half its width.
_SHADOWS = {"sitting": (0, 2.78, 1.5), "lying": (0.6, 1.78, 2.1), "standing": (0.75, 2.42, 1.7), "upright": (0, 2.8, 1)}


def draw_background(canvas: Canvas, scene: Scene) -> None:
    """Draw the scene's place."""
    {"meadow": _meadow, "night": _night, "beach": _beach, "room": _room, "plain": _plain}[scene.place](canvas, scene)


def draw_ground_shadow(canvas: Canvas, scene: Scene) -> None:
    """Darken the ground below the cat a little."""
    side = -1 if scene.mirrored else 1
    middle, depth, width = _SHADOWS[scene.pose]
    x, y = scene.x + side * middle * scene.head, scene.y + depth * scene.head
    with canvas.inside(ellipse(x, y, width * scene.head, 0.22 * scene.head), 0.22):
        canvas.shape(ellipse(x, y, width * scene.head, 0.22 * scene.head), (40, 36, 60))


def _pick(colours: Sequence[_T], chance: float) -> _T:
    return colours[min(int(chance * len(colours)), len(colours) - 1)]


def _horizon(scene: Scene) -> float:
    return 0.60 + 0.10 * scene.variation[12]


def _hill(height: float, swing: float, phase: float) -> Points:
    x = np.linspace(-0.02, 1.02, 40)
    ridge = height - swing * np.sin(2.2 * x * np.pi * 0.8 + 2 * np.pi * phase)
    return np.concatenate([np.stack([x, ridge], axis=1), [(1.02, 1.02), (-0.02, 1.02)]])


def _cloud(canvas: Canvas, x: float, y: float, size: float, sky: RGB) -> None:
    puffs = smooth(
        [(-1.5, 0.3), (-1.3, -0.15), (-0.8, -0.2), (-0.4, -0.7), (0.35, -0.68), (0.75, -0.25), (1.25, -0.2), (1.5, 0.3)]
    )
    canvas.shape(puffs * size + (x, y), mix(sky, (255, 255, 255), 0.72))


def _meadow(canvas: Canvas, scene: Scene) -> None:
    v = scene.variation
    top, low = _pick(_DAY_SKIES, v[13])
    horizon = _horizon(scene)
    canvas.gradient([(0, top), (horizon, low), (1, low)])
    _cloud(canvas, 0.15 + 0.7 * v[14], 0.12 + 0.12 * v[15], 0.06 + 0.03 * v[16], top)
    grass = _pick(_GRASS, v[17])
    canvas.shape(_hill(horizon - 0.02, 0.045, v[18]), mix(grass, low, 0.42))
    canvas.shape(_hill(horizon + 0.07, 0.03, v[19]), grass)
    canvas.shape(_hill(horizon + 0.22, 0.02, v[20]), shade(grass, 0.9))


def _night(canvas: Canvas, scene: Scene) -> None:
    v = scene.variation
    top, low = _pick(_NIGHT_SKIES, v[13])
    horizon = _horizon(scene)
    canvas.gradient([(0, top), (horizon, low), (1, low)])
    for k in range(9):
        x, y = (v[14 + k % 4] + 0.37 * k) % 1.0, 0.05 + ((v[18 + k % 3] + 0.23 * k) % 1.0) * 0.42
        canvas.shape(ellipse(x, y, 0.0075, 0.0075, count=12), (246, 240, 206))
    ground = mix((54, 84, 92), low, 0.25)
    canvas.shape(_hill(horizon + 0.0, 0.05, v[18]), mix(ground, low, 0.45))
    canvas.shape(_hill(horizon + 0.09, 0.03, v[19]), ground)


def _beach(canvas: Canvas, scene: Scene) -> None:
    v = scene.variation
    top, low = _pick(_DAY_SKIES, v[13])
    horizon = _horizon(scene) - 0.08
    canvas.gradient([(0, top), (horizon, low), (1, low)])
    _cloud(canvas, 0.15 + 0.7 * v[14], 0.12 + 0.12 * v[15], 0.06 + 0.03 * v[16], top)
    sea = mix((58, 144, 190), (70, 186, 186), v[16])
    canvas.gradient([(0, shade(sea, 0.92)), (1, shade(sea, 1.25))], horizon, 1.0)
    shore = horizon + 0.13
    canvas.shape(_hill(shore - 0.016, 0.018, v[18]), (246, 250, 248))
    canvas.shape(_hill(shore, 0.018, v[18]), mix((244, 222, 170), (236, 206, 150), v[17]))


def _room(canvas: Canvas, scene: Scene) -> None:
    v = scene.variation
    wall, floor = _pick(_WALLS, v[13]), _pick(_FLOORS, v[17])
    edge = _horizon(scene) + 0.06
    canvas.gradient([(0, shade(wall, 1.15)), (edge, shade(wall, 0.95)), (1, wall)])
    for k in range(8):
        if k % 2:
            stripe = [(k / 8, -0.01), ((k + 1) / 8, -0.01), ((k + 1) / 8, edge), (k / 8, edge)]
            with canvas.inside(np.array(stripe), 0.3):
                canvas.shape(np.array(stripe), shade(wall, 0.9))
    canvas.gradient([(0, shade(floor, 1.1)), (1, shade(floor, 0.86))], edge, 1.0)
    canvas.shape(
        np.array([(-0.01, edge - 0.026), (1.01, edge - 0.026), (1.01, edge), (-0.01, edge)]),
        mix(wall, (255, 255, 255), 0.6),
    )
    rug = mix(wall, (150, 70, 80), 0.55) if v[20] < 0.5 else mix(wall, (60, 90, 140), 0.55)
    canvas.shape(ellipse(0.5, 0.94, 0.46, 0.12), rug)
    canvas.shape(ellipse(0.5, 0.94, 0.37, 0.085), shade(rug, 1.25))


def _plain(canvas: Canvas, scene: Scene) -> None:
    v = scene.variation
    hue = np.array([0.0, 2.1, 4.2]) + 2 * np.pi * v[13]
    r, g, b = (214 + 30 * np.cos(hue)).tolist()
    colour = (r, g, b)
    canvas.gradient([(0, shade(colour, 1.35)), (0.72, colour), (1, shade(colour, 0.86))])

"""The things: hats, glasses and bow tie in the cat's coordinates; balloon, flower and moon in the picture's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.drawings.canvas import Canvas, Frame, Points, ellipse, smooth
from benchmarks.drawings.cat import head_frame, neck_frame
from benchmarks.drawings.palette import INK, RGB, mix, outline_of, shade
from benchmarks.drawings.scene import Scene, Thing


def draw_worn(canvas: Canvas, scene: Scene) -> None:
    """Draw what the cat wears: glasses, bow tie and hat."""
    if scene.glasses is not None:
        with canvas.part("glasses"):
            _glasses(canvas, scene, scene.glasses)
    if scene.bow_tie is not None:
        with canvas.part("bow tie"):
            _bow_tie(canvas, scene, scene.bow_tie)
    if scene.hat is not None:
        tilt = 0.10 * (scene.hat.at[0] - 0.5)
        head = head_frame(scene)
        top = head([(0.0, -0.66)])[0]
        frame = Frame(top[0], top[1], scene.head * scene.hat.size, scene.turn + tilt)
        with canvas.part("hat"):
            _HATS[scene.hat.kind](canvas, frame, scene.hat, scene.line)


def draw_moon(canvas: Canvas, scene: Scene) -> None:
    """Draw the moon, a crescent in an upper corner."""
    if scene.moon is None:
        return
    moon = scene.moon
    x, y = _across(moon, 0.11, 0.06), 0.13 + 0.05 * moon.at[1]
    radius = 0.085 * moon.size
    opening = 0.9 + 0.8 * moon.at[1]
    t = np.linspace(0.5 * np.pi, 1.5 * np.pi, 24)
    outer = np.stack([radius * np.cos(t), radius * np.sin(t)], axis=1)
    u = t[::-1]
    inner = np.stack([radius * 0.34 * np.cos(u), radius * np.sin(u)], axis=1)
    frame = Frame(x, y, 1.0, 0.35 + 0.2 * opening, mirrored=moon.side == "left")
    points = frame(np.concatenate([outer, inner]))
    with canvas.part("moon"):
        canvas.shape(points, moon.rgb, outline_of(moon.rgb), scene.line * 0.9)


def draw_around(canvas: Canvas, scene: Scene) -> None:
    """Draw what stands or floats in front: balloon and flower."""
    if scene.balloon is not None:
        with canvas.part("balloon"):
            _balloon(canvas, scene, scene.balloon)
    if scene.flower is not None:
        with canvas.part("flower"):
            _flower(canvas, scene, scene.flower)


def _across(thing: Thing, nearest: float, spread: float) -> float:
    """Return the horizontal position: `nearest` to `nearest + spread` from the thing's own side."""
    x = nearest + spread * thing.at[0]
    return x if thing.side == "left" else 1 - x


def _shine(canvas: Canvas, points: Points, highlight: Points, shadow: Points, colour: RGB) -> None:
    """Shade a shape softly: lighter to the left, darker to the right."""
    with canvas.inside(points, 0.6):
        canvas.shape(shadow, shade(colour, 0.78))
    with canvas.inside(points, 0.55):
        canvas.shape(highlight, shade(colour, 1.45))


def _top_hat(canvas: Canvas, frame: Frame, hat: Thing, line: float) -> None:
    colour, edge = hat.rgb, outline_of(hat.rgb)
    height = 1.02 + 0.2 * hat.at[1]
    crown = frame(
        smooth(
            [
                (-0.50, -0.02),
                (-0.50, -0.3),
                (-0.60, -height),
                (-0.3, -height - 0.08),
                (0.3, -height - 0.08),
                (0.60, -height),
                (0.50, -0.3),
                (0.50, -0.02),
            ],
            steps=4,
        )
    )
    canvas.shape(crown, colour, edge, line)
    _shine(
        canvas,
        crown,
        frame([(-0.42, 0), (-0.50, -height), (-0.30, -height), (-0.26, 0)]),
        frame([(0.2, 0.1), (0.26, -1.4), (0.7, -1.4), (0.7, 0.1)]),
        colour,
    )
    band = (236, 196, 92) if hat.colour in ("black", "purple", "blue", "red") else (70, 62, 84)
    ribbon = [(-0.52, -0.02), (-0.515, -0.26), (0.515, -0.26), (0.52, -0.02)]
    canvas.shape(frame(ribbon), band, outline_of(band), line * 0.7)
    brim = frame(ellipse(0, 0, 0.92, 0.15))
    canvas.shape(brim, colour, edge, line)


def _party_hat(canvas: Canvas, frame: Frame, hat: Thing, line: float) -> None:
    colour, edge = hat.rgb, outline_of(hat.rgb)
    height = 1.25 + 0.2 * hat.at[1]
    cone = frame(
        [(-0.54, 0.02), (-0.28, 0.12), (0, 0.15), (0.28, 0.12), (0.54, 0.02), (0.04, -height), (-0.04, -height)]
    )
    canvas.shape(cone, colour, edge, line)
    accent = (255, 255, 255) if hat.colour != "white" else (250, 190, 80)
    with canvas.inside(cone):
        for y in (0.12, -0.38, -0.86):
            stripe = [(-0.7, y - 0.02), (0.7, y - 0.24), (0.7, y - 0.38), (-0.7, y - 0.16)]
            canvas.shape(frame(stripe), mix(colour, accent, 0.78))
    with canvas.inside(cone, 0.4):
        canvas.shape(frame([(0.1, 0.3), (0.02, -height), (0.7, -height), (0.7, 0.3)]), shade(colour, 0.7))
    canvas.shape(cone, None, edge, line)
    pompon = accent if hat.colour != "white" else (250, 190, 80)
    canvas.shape(frame(ellipse(0, -height - 0.06, 0.19, 0.19)), pompon, outline_of(pompon), line)


def _beanie(canvas: Canvas, frame: Frame, hat: Thing, line: float) -> None:
    colour, edge = hat.rgb, outline_of(hat.rgb)
    height = 0.66 + 0.12 * hat.at[1]
    pompon = shade(colour, 1.5) if hat.colour != "white" else (214, 210, 214)
    canvas.shape(frame(ellipse(0, -height - 0.14, 0.22, 0.21)), pompon, edge, line)
    dome = frame(
        smooth(
            [
                (-0.76, 0.08),
                (-0.74, -0.25),
                (-0.45, -height + 0.08),
                (0, -height),
                (0.45, -height + 0.08),
                (0.74, -0.25),
                (0.76, 0.08),
                (0, 0.12),
            ]
        )
    )
    canvas.shape(dome, colour, edge, line)
    _shine(
        canvas, dome, frame(ellipse(-0.36, -0.4, 0.16, 0.26, turn=0.5)), frame(ellipse(0.75, -0.2, 0.42, 0.8)), colour
    )
    cuff = frame(
        smooth(
            [
                (-0.80, -0.10),
                (0, -0.16),
                (0.80, -0.10),
                (0.86, 0.06),
                (0.80, 0.20),
                (0, 0.16),
                (-0.80, 0.20),
                (-0.86, 0.06),
            ]
        )
    )
    canvas.shape(cuff, shade(colour, 0.84) if hat.colour != "black" else shade(colour, 1.12), edge, line)
    for x in (-0.5, -0.17, 0.17, 0.5):
        canvas.line(frame([(x, -0.05), (x, 0.09)]), edge, line * 0.6)


def _crown(canvas: Canvas, frame: Frame, hat: Thing, line: float) -> None:
    colour, edge = hat.rgb, outline_of(hat.rgb)
    height = 0.72 + 0.14 * hat.at[1]
    points = [
        (-0.60, 0.04),
        (-0.74, -height + 0.08),
        (-0.36, -0.36),
        (0, -height - 0.10),
        (0.36, -0.36),
        (0.74, -height + 0.08),
        (0.60, 0.04),
        (0.3, 0.11),
        (0, 0.13),
        (-0.3, 0.11),
    ]
    body = frame(points)
    canvas.shape(body, colour, edge, line)
    with canvas.inside(body, 0.5):
        canvas.shape(frame([(0.15, 0.3), (0.25, -1), (0.9, -1), (0.9, 0.3)]), shade(colour, 0.76))
    canvas.shape(body, None, edge, line)
    jewels: tuple[RGB, ...] = ((226, 60, 70), (80, 180, 230), (226, 60, 70))
    if hat.colour in ("red", "pink", "purple"):
        jewels = ((255, 226, 120), (120, 220, 240), (255, 226, 120))
    for x, jewel in zip((-0.34, 0.0, 0.34), jewels, strict=True):
        canvas.shape(frame(ellipse(x, -0.10, 0.10, 0.10)), jewel, outline_of(jewel), line * 0.6)
    for x, y in ((-0.74, -height + 0.04), (0, -height - 0.14), (0.74, -height + 0.04)):
        canvas.shape(frame(ellipse(x, y, 0.11, 0.11)), shade(colour, 1.3), edge, line * 0.8)


_HATS: dict[str, Callable[[Canvas, Frame, Thing, float], None]] = {
    "top hat": _top_hat,
    "party hat": _party_hat,
    "beanie": _beanie,
    "crown": _crown,
}


def _glasses(canvas: Canvas, scene: Scene, glasses: Thing) -> None:
    head = head_frame(scene)
    colour = glasses.rgb
    width = max(0.105 * scene.head, 1.6 * scene.line)
    rim = outline_of(colour)
    lenses = [head(ellipse(side * 0.45, -0.05, 0.38, 0.36)) for side in (-1, 1)]
    for lens in lenses:
        with canvas.inside(lens, 0.25):
            canvas.shape(lens, (235, 246, 255))
    strokes = [head(smooth([(-0.09, -0.10), (0, -0.16), (0.09, -0.10)], closed=False))]
    strokes += [head([(side * 0.82, -0.12), (side * 1.0, -0.2)]) for side in (-1, 1)]
    # A dark edge first, then the frame itself, so that white glasses show on a white cat.
    for stroke in strokes:
        canvas.line(stroke, rim, width + 1.1 * scene.line)
    for lens in lenses:
        canvas.shape(lens, None, rim, width + 1.1 * scene.line)
    for stroke in strokes:
        canvas.line(stroke, colour, width)
    for lens in lenses:
        canvas.shape(lens, None, colour, width)


def _bow_tie(canvas: Canvas, scene: Scene, tie: Thing) -> None:
    neck = neck_frame(scene)
    frame = Frame(neck.x, neck.y, neck.scale * tie.size, neck.turn)
    colour, edge = tie.rgb, outline_of(tie.rgb)
    for side in (-1, 1):
        wing = frame(
            smooth(
                [
                    (side * 0.06, -0.06),
                    (side * 0.42, -0.28),
                    (side * 0.66, -0.24),
                    (side * 0.70, 0),
                    (side * 0.66, 0.26),
                    (side * 0.42, 0.28),
                    (side * 0.06, 0.06),
                ],
                steps=5,
            )
        )
        canvas.shape(wing, colour, edge, scene.line)
        with canvas.inside(wing, 0.6):
            canvas.shape(frame(ellipse(side * 0.1, 0, 0.26, 0.14)), shade(colour, 0.7))
    canvas.shape(
        frame(smooth([(-0.14, -0.15), (0.14, -0.15), (0.16, 0.15), (-0.16, 0.15)], steps=4)),
        shade(colour, 1.2),
        edge,
        scene.line,
    )


def _balloon(canvas: Canvas, scene: Scene, balloon: Thing) -> None:
    x, y = _across(balloon, 0.115, 0.04), 0.16 + 0.10 * balloon.at[1]
    frame = Frame(x, y, 0.088 * balloon.size, 0.12 * (balloon.at[0] - 0.5))
    colour, edge = balloon.rgb, outline_of(balloon.rgb)
    string = smooth([(0, 1.3), (0.18, 1.9), (-0.14, 2.5), (0.1, 3.1), (0, 3.6)], closed=False)
    canvas.line(frame(string), mix(INK, (255, 255, 255), 0.15), scene.line * 0.6)
    canvas.shape(frame([(-0.17, 1.36), (0, 1.1), (0.17, 1.36)]), shade(colour, 0.85), edge, scene.line * 0.8)
    skin = frame(
        smooth(
            [
                (0, -1.05),
                (0.66, -0.84),
                (0.96, -0.2),
                (0.72, 0.56),
                (0, 1.16),
                (-0.72, 0.56),
                (-0.96, -0.2),
                (-0.66, -0.84),
            ]
        )
    )
    canvas.shape(skin, colour, edge, scene.line)
    _shine(
        canvas,
        skin,
        frame(ellipse(-0.42, -0.42, 0.17, 0.28, turn=0.5)),
        frame(ellipse(0.95, 0.25, 0.5, 1.1, turn=0.3)),
        colour,
    )


def _flower(canvas: Canvas, scene: Scene, flower: Thing) -> None:
    x, y = _across(flower, 0.085, 0.04), 0.74 + 0.05 * flower.at[1]
    frame = Frame(x, y, 0.072 * flower.size)
    colour, edge = flower.rgb, outline_of(flower.rgb)
    stem, leaf = (74, 140, 70), (96, 168, 84)
    canvas.line(frame(smooth([(0, 0.6), (0.12, 1.6), (0, 3.0)], closed=False)), outline_of(leaf), 0.02)
    canvas.line(frame(smooth([(0, 0.6), (0.12, 1.6), (0, 3.0)], closed=False)), stem, 0.011)
    for side in (-1, 1):
        shape = [(side * 0.05, 2.5), (side * 0.45, 1.75), (side * 0.95, 1.6), (side * 0.75, 2.15)]
        canvas.shape(frame(smooth(shape, steps=5)), leaf, outline_of(leaf), scene.line * 0.8)
    turn = flower.at[0] * 2 * np.pi
    petals = [turn + k * 2 * np.pi / 6 for k in range(6)]
    for angle in petals:
        petal = frame(ellipse(0.72 * np.cos(angle), 0.72 * np.sin(angle), 0.52, 0.42, turn=angle, count=28))
        canvas.shape(petal, colour, edge, scene.line * 0.8)
    middle: RGB = (250, 200, 70) if flower.colour not in ("yellow", "white") else (232, 140, 60)
    canvas.shape(frame(ellipse(0, 0, 0.40, 0.40)), middle, outline_of(middle), scene.line * 0.8)

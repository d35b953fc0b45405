"""The cat: body, head and face. Lengths are in radii of the head, from the head's centre."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.drawings.canvas import Canvas, Frame, Points, ellipse, smooth
from benchmarks.drawings.palette import INK, INNER_EAR, NOSE, RGB, mix, outline_of, shade
from benchmarks.drawings.scene import Scene

# Half of the head's outline, from the top of the skull to the chin.
_HEAD = [(0, -0.84), (0.42, -0.80), (0.80, -0.50), (0.98, -0.02), (1.02, 0.26), (0.84, 0.60), (0.46, 0.80), (0, 0.85)]
_EAR = [(0.30, -0.74), (0.52, -1.06), (0.80, -1.30), (0.90, -1.22), (0.97, -0.80), (0.90, -0.28), (0.55, -0.45)]
_INNER_EAR = [(0.48, -0.74), (0.62, -0.96), (0.78, -1.10), (0.84, -0.84), (0.80, -0.52)]


def draw_cat(canvas: Canvas, scene: Scene) -> None:
    """Draw the cat without what it wears."""
    body = Frame(scene.x, scene.y, scene.head, mirrored=scene.mirrored)
    _BODIES[scene.pose](canvas, scene, body)
    _head(canvas, scene, head_frame(scene))


def head_frame(scene: Scene) -> Frame:
    """Return the head's coordinates, in which hats and glasses are drawn, too."""
    return Frame(scene.x, scene.y, scene.head, scene.turn)


def neck_frame(scene: Scene) -> Frame:
    """Return the coordinates of the throat, in which a bow tie is drawn."""
    return Frame(
        scene.x - 0.92 * scene.head * np.sin(scene.turn), scene.y + 0.98 * scene.head, scene.head, 0.5 * scene.turn
    )


def _both(half: list[tuple[float, float]]) -> Points:
    """Close a shape that is symmetrical about the vertical axis, given the half to the right."""
    right = np.array(half)
    left = right[::-1] * (-1, 1)
    keep = slice(1 if left[0, 0] == 0 else 0, -1 if left[-1, 0] == 0 else None)
    return np.concatenate([right, left[keep]])


def _fur(scene: Scene) -> tuple[RGB, RGB, RGB, RGB]:
    coat = scene.coat
    return coat.base, coat.light, coat.mark, outline_of(coat.base)


def _limb_colour(scene: Scene) -> RGB:
    """Return the colour of legs and tail, which a siamese cat has darker."""
    return scene.coat.mark if scene.coat.pattern == "siamese" else scene.coat.base


def _tail(canvas: Canvas, scene: Scene, body: Frame, points: list[tuple[float, float]], width: float) -> None:
    line = body(smooth(points, closed=False, steps=9))
    outline, colour = outline_of(scene.coat.base), _limb_colour(scene)
    thickness = width * scene.head
    canvas.line(line, outline, thickness + 2 * scene.line)
    canvas.line(line, colour, thickness)
    if scene.coat.pattern in ("tabby", "spotted"):
        count = len(line)
        for start in (0.35, 0.55, 0.75):
            first = int(start * count)
            canvas.line(line[first : first + 4], scene.coat.mark, thickness * 0.98)
    if scene.coat.pattern == "tuxedo":
        canvas.line(line[-7:], scene.coat.light, thickness)


def _torso(canvas: Canvas, scene: Scene, outline_points: Points, shadow: Points) -> None:
    base, _, _, outline = _fur(scene)
    canvas.shape(outline_points, base, outline, scene.line)
    with canvas.inside(outline_points, 0.55):
        canvas.shape(shadow, shade(base, 0.84))


def _coat_marks(
    canvas: Canvas, scene: Scene, clip: Points, body: Frame, centre: tuple[float, float], rx: float
) -> None:
    """Draw the pattern on a torso with its centre and half its width, in the body's coordinates."""
    v = scene.variation
    x, y = centre
    if scene.coat.pattern == "tabby":
        with canvas.inside(clip):
            for k, dy in enumerate((-0.55, -0.1, 0.35)):
                for side in (-1, 1):
                    tip, edge = x + side * rx * (0.42 + 0.1 * v[k]), x + side * rx * 1.25
                    stripe = [(edge, y + dy - 0.02), (tip, y + dy + 0.16), (edge, y + dy + 0.24)]
                    canvas.shape(body(smooth(stripe, steps=5)), scene.coat.mark)
    elif scene.coat.pattern == "spotted":
        with canvas.inside(clip):
            for k, (dx, dy) in enumerate(((-0.75, -0.2), (0.62, 0.42), (0.7, -0.5), (-0.5, 0.72))):
                spot = ellipse(x + dx * rx, y + dy, rx * (0.30 + 0.14 * v[k]), 0.26 + 0.1 * v[k + 4], turn=v[k])
                canvas.shape(body(spot), scene.coat.mark)


def _paw(canvas: Canvas, scene: Scene, body: Frame, x: float, y: float, rx: float = 0.31, ry: float = 0.21) -> None:
    _, light, _, outline = _fur(scene)
    colour = _limb_colour(scene)
    if scene.coat.pattern == "tuxedo":
        colour = light
    points = body(ellipse(x, y, rx, ry))
    canvas.shape(points, colour, outline, scene.line)
    for dx in (-0.09, 0.09):
        canvas.line(body([(x + dx, y + 0.04), (x + dx, y + ry * 0.8)]), outline, scene.line * 0.75)


def _sitting(canvas: Canvas, scene: Scene, body: Frame) -> None:
    base, light, _, outline = _fur(scene)
    w, v = scene.build, scene.variation
    reach = 1.5 + 0.25 * v[10]
    _tail(
        canvas,
        scene,
        body,
        [(0.7, 2.5), (1.25, 2.62), (reach, 2.2), (reach + 0.02, 1.6), (reach - 0.28, 1.2 - 0.2 * v[11])],
        0.34,
    )
    half = [(0, 0.5), (0.46, 0.62), (0.64 * w, 1.1), (0.86 * w, 1.7), (1.06 * w, 2.3), (0.9 * w, 2.72), (0, 2.8)]
    torso = body(smooth(_both(half)))
    _torso(canvas, scene, torso, body(ellipse(0.95, 1.9, 0.62, 1.5)))
    _coat_marks(canvas, scene, torso, body, (0, 1.75), 0.95 * w)
    chest = body(smooth([(0, 0.6), (0.36, 0.9), (0.34, 1.4), (0, 1.85), (-0.34, 1.4), (-0.36, 0.9)]))
    with canvas.inside(torso):
        canvas.shape(chest, light)
    legs = [(0.08, 1.62), (0.1, 2.62), (0.52, 2.66), (0.54, 1.72)]
    for side in (-1, 1):
        edge = np.array(legs) * (side, 1)
        canvas.shape(body(edge), _limb_colour(scene) if scene.coat.pattern == "siamese" else base)
        canvas.line(body(smooth([edge[0], (side * 0.07, 2.1), edge[1]], closed=False)), outline, scene.line)
        canvas.line(body(smooth([edge[3], (side * 0.56, 2.2), edge[2]], closed=False)), outline, scene.line)
    for side in (-1, 1):
        _paw(canvas, scene, body, side * 0.32, 2.66)
        _paw(canvas, scene, body, side * 0.86 * w, 2.72, 0.3, 0.18)


def _lying(canvas: Canvas, scene: Scene, body: Frame) -> None:
    _, light, _, _ = _fur(scene)
    w, v = scene.build, scene.variation
    lift = 0.1 * v[10]
    _tail(canvas, scene, body, [(2.0 * w, 1.5), (2.35 * w, 1.62), (2.5 * w, 1.25), (2.3 * w, 0.85 - lift)], 0.34)
    outline_points = [
        (-0.75, 0.6),
        (0, 0.35),
        (0.8, 0.32 - lift),
        (1.6 * w, 0.45),
        (2.1 * w, 0.95),
        (2.12 * w, 1.5),
        (1.6 * w, 1.75),
        (0.4, 1.78),
        (-0.7, 1.75),
        (-0.98, 1.3),
    ]
    torso = body(smooth(outline_points))
    _torso(canvas, scene, torso, body(ellipse(1.1, 1.75, 1.6, 0.5)))
    if scene.coat.pattern == "tabby":
        with canvas.inside(torso):
            for k in range(4):
                x = (0.78 + 0.36 * k) * w
                stripe = [(x - 0.1, 0.2), (x + 0.12, 0.2), (x + 0.1 + 0.06 * v[k], 1.1)]
                canvas.shape(body(smooth(stripe, steps=5)), scene.coat.mark)
    elif scene.coat.pattern == "spotted":
        with canvas.inside(torso):
            for k, (x, y) in enumerate(((1.15, 0.6), (1.8, 1.1), (1.2, 1.35))):
                canvas.shape(
                    body(ellipse(x * w, y, 0.34 + 0.1 * v[k], 0.26 + 0.06 * v[k + 4], turn=v[k])), scene.coat.mark
                )
    with canvas.inside(torso):
        canvas.shape(body(ellipse(-0.05, 1.0, 0.5, 0.5)), light)
    haunch = body(
        smooth([(1.25 * w, 1.72), (1.2 * w, 1.2), (1.6 * w, 0.95), (2.0 * w, 1.2), (1.98 * w, 1.6), (1.7 * w, 1.76)])
    )
    canvas.line(haunch[: len(haunch) * 2 // 3], outline_of(scene.coat.base), scene.line)
    for x in (-0.5, 0.3):
        _paw(canvas, scene, body, x, 1.68, 0.38, 0.22)
    _paw(canvas, scene, body, 1.5 * w, 1.74, 0.34, 0.17)


def _standing(canvas: Canvas, scene: Scene, body: Frame) -> None:
    _, light, _, outline = _fur(scene)
    w, v = scene.build, scene.variation
    _tail(
        canvas, scene, body, [(1.9 * w, 1.1), (2.3 * w, 0.75), (2.35 * w, 0.2), (2.15 * w, -0.3 - 0.25 * v[10])], 0.32
    )
    for x, dark in ((0.32, True), (1.42 * w, True), (-0.3, False), (1.8 * w, False)):
        leg = [(x - 0.24, 1.2), (x - 0.2, 2.3), (x + 0.22, 2.3), (x + 0.26, 1.2)]
        colour = _limb_colour(scene)
        canvas.shape(body(leg), shade(colour, 0.86) if dark else colour, outline, scene.line)
        if not dark:
            _paw(canvas, scene, body, x - 0.04, 2.34, 0.29, 0.17)
        else:
            canvas.shape(body(ellipse(x - 0.04, 2.26, 0.27, 0.16)), shade(colour, 0.86), outline, scene.line)
    outline_points = [
        (-0.55, 0.7),
        (0, 0.45),
        (0.9, 0.52),
        (1.7 * w, 0.48),
        (2.08 * w, 0.85),
        (2.08 * w, 1.4),
        (1.6 * w, 1.66),
        (0.7, 1.74),
        (-0.1, 1.7),
        (-0.58, 1.3),
    ]
    torso = body(smooth(outline_points))
    _torso(canvas, scene, torso, body(ellipse(0.9, 1.75, 1.5, 0.42)))
    if scene.coat.pattern == "tabby":
        with canvas.inside(torso):
            for k in range(4):
                x = (0.72 + 0.36 * k) * w
                stripe = [(x - 0.1, 0.3), (x + 0.12, 0.3), (x + 0.08 + 0.06 * v[k], 1.15)]
                canvas.shape(body(smooth(stripe, steps=5)), scene.coat.mark)
    elif scene.coat.pattern == "spotted":
        with canvas.inside(torso):
            for k, (x, y) in enumerate(((1.1, 0.7), (1.75, 1.15), (0.95, 1.4))):
                canvas.shape(
                    body(ellipse(x * w, y, 0.32 + 0.1 * v[k], 0.24 + 0.06 * v[k + 4], turn=v[k])), scene.coat.mark
                )
    with canvas.inside(torso):
        canvas.shape(body(ellipse(-0.25, 1.15, 0.36, 0.5)), light)


def _upright(canvas: Canvas, scene: Scene, body: Frame) -> None:
    base, light, _, outline = _fur(scene)
    w, v = scene.build, scene.variation
    limb = _limb_colour(scene)
    _tail(canvas, scene, body, [(0.5, 2.2), (1.1, 2.4), (1.5, 2.0), (1.45, 1.4 - 0.3 * v[10])], 0.3)
    for side in (-1, 1):
        arm = body(smooth([(side * 0.5, 1.1), (side * 1.0, 1.0 - 0.2 * v[11]), (side * 1.3, 0.62)], closed=False))
        canvas.line(arm, outline, 0.36 * scene.head + 2 * scene.line)
        canvas.line(arm, limb, 0.36 * scene.head)
        leg = body([(side * 0.12, 2.0), (side * 0.14, 2.7), (side * 0.6, 2.7), (side * 0.62, 2.0)])
        canvas.shape(leg, limb, outline, scene.line)
        _paw(canvas, scene, body, side * 0.4, 2.7)
    half = [(0, 0.5), (0.46, 0.62), (0.66 * w, 1.1), (0.8 * w, 1.7), (0.74 * w, 2.2), (0.4 * w, 2.42), (0, 2.46)]
    torso = body(smooth(_both(half)))
    _torso(canvas, scene, torso, body(ellipse(0.8, 1.7, 0.5, 1.2)))
    _coat_marks(canvas, scene, torso, body, (0, 1.5), 0.74 * w)
    with canvas.inside(torso):
        canvas.shape(body(ellipse(0, 1.65, 0.44 * w, 0.7)), mix(light, base, 0.3))


_BODIES: dict[str, Callable[[Canvas, Scene, Frame], None]] = {
    "sitting": _sitting,
    "lying": _lying,
    "standing": _standing,
    "upright": _upright,
}


def _head(canvas: Canvas, scene: Scene, head: Frame) -> None:
    base, light, mark, outline = _fur(scene)
    coat = scene.coat
    for side in (-1, 1):
        ear = np.array(_EAR) * (side, 1)
        ear_colour = mark if coat.pattern == "siamese" else base
        if coat.pattern == "spotted" and side < 0:
            ear_colour = mark
        canvas.shape(head(smooth(ear)), ear_colour, outline, scene.line)
        canvas.shape(head(smooth(np.array(_INNER_EAR) * (side, 1))), mix(INNER_EAR, base, 0.25))
    skull = head(smooth(_both(_HEAD)))
    canvas.shape(skull, base, outline, scene.line)
    with canvas.inside(skull, 0.5):
        canvas.shape(head(ellipse(0.0, 0.95, 1.1, 0.42)), shade(base, 0.86))
    with canvas.inside(skull):
        if coat.pattern == "tabby":
            for x, length in ((-0.24, 0.36), (0, 0.46), (0.24, 0.36)):
                stripe = [(x - 0.08, -0.92), (x + 0.08, -0.92), (x * 0.85, -0.84 + length)]
                canvas.shape(head(smooth(stripe, steps=5)), mark)
            for side in (-1, 1):
                for dy in (0.1, 0.34):
                    stripe = [(side * 1.1, dy - 0.07), (side * 0.74, dy + 0.03), (side * 1.1, dy + 0.09)]
                    canvas.shape(head(smooth(stripe, steps=5)), mark)
        elif coat.pattern == "spotted":
            canvas.shape(head(ellipse(-0.62, -0.42, 0.46, 0.5, turn=0.4)), mark)
        elif coat.pattern == "siamese":
            canvas.shape(
                head(smooth([(0, -0.3), (0.42, 0.1), (0.56, 0.5), (0, 0.95), (-0.56, 0.5), (-0.42, 0.1)])), mark
            )
        elif coat.pattern == "tuxedo":
            canvas.shape(
                head(smooth([(0, -0.5), (0.14, 0.0), (0.5, 0.4), (0.4, 0.85), (-0.4, 0.85), (-0.5, 0.4), (-0.14, 0)])),
                light,
            )
        if coat.pattern not in ("siamese", "tuxedo"):
            canvas.shape(head(ellipse(0, 0.46, 0.42, 0.30)), light)
    _face(canvas, scene, head)
    canvas.shape(skull, None, outline, scene.line)


def _face(canvas: Canvas, scene: Scene, head: Frame) -> None:
    dark_face = scene.coat.colour == "black" and scene.coat.pattern == "plain"
    ink = (30, 26, 32) if dark_face else INK
    for side in (-1, 1):
        canvas.shape(head(ellipse(side * 0.70, 0.36, 0.17, 0.11)), mix(scene.coat.base, (255, 128, 128), 0.34))
        x, size = side * 0.44, scene.eye_size
        canvas.shape(head(ellipse(x, -0.06, 0.25 * size, 0.29 * size)), scene.eyes, ink, scene.line * 0.9)
        canvas.shape(head(ellipse(x - side * 0.02, -0.04, 0.135 * size, 0.225 * size)), (24, 20, 26))
        canvas.shape(head(ellipse(x - 0.07, -0.15, 0.08 * size, 0.085 * size)), (255, 255, 255))
        whisker = (
            (236, 232, 236)
            if scene.coat.mark[0] < 60 or scene.coat.pattern == "siamese"
            else mix(ink, scene.coat.base, 0.25)
        )
        for dy, slope in ((0.36, -0.06), (0.50, 0.08)):
            ends = [(side * 0.52, dy), (side * 0.95, dy + 0.3 * slope), (side * 1.36, dy + slope)]
            canvas.line(head(smooth(ends, closed=False)), whisker, scene.line * 0.7)
    nose = smooth([(-0.12, 0.24), (0.12, 0.24), (0.0, 0.37)], steps=5)
    canvas.shape(head(nose), NOSE, mix(NOSE, INK, 0.5), scene.line * 0.6)
    mouth = mix(ink, NOSE, 0.2) if scene.coat.pattern != "siamese" else (40, 28, 28)
    for side in (-1, 1):
        curve = smooth([(0, 0.37), (side * 0.03, 0.49), (side * 0.15, 0.54), (side * 0.26, 0.48)], closed=False)
        canvas.line(head(curve), mouth, scene.line * 0.8)

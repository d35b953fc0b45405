"""What a scene holds, and how one is drawn by lot.

Every number of a scene is fixed before anything is drawn, so taking a thing away changes nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.drawings.palette import COATS, EYES, MOON_COLOURS, RGB, THING_COLOURS, Coat

HATS = ("top hat", "party hat", "beanie", "crown")
THINGS = ("hat", "glasses", "bow tie", "balloon", "flower", "moon")
SIDES = ("left", "right")
PLACES = ("meadow", "night", "beach", "room", "plain")
OUTDOORS = ("meadow", "night", "beach")
POSES = ("sitting", "lying", "standing")
HELD_OUT_POSE = "upright"  # that no training picture of the checkpoint has


@dataclass(frozen=True)
class Thing:
    """A thing in the scene.

    Attributes:
        kind: "glasses", "bow tie", "balloon", "flower", "moon", or a kind of hat.
        colour: the colour's name.
        rgb: the colour itself, which varies a little.
        side: "left" or "right" of the picture for balloon, flower and moon; None for what the cat wears.
        at: the position on its side and the variation of its shape, both in [0, 1].
        size: the size relative to the usual one.
    """

    kind: str
    colour: str
    rgb: RGB
    side: str | None
    at: tuple[float, float]
    size: float


@dataclass(frozen=True)
class Style:
    """The ranges that scenes are drawn from; the default is the world that models are trained on.

    Attributes:
        line: the outlines' width in thousandths of the picture's side, lowest and highest.
        head: the head's radius as a fraction of the picture's side.
        across: the head's horizontal position.
        down: the head's vertical position.
        turn: the head's largest tilt, in radians.
        eyes: the eyes' size relative to the usual one.
        build: the body's width relative to the usual one.
        poses: the poses, each as likely.
    """

    line: tuple[float, float] = (8.0, 10.5)
    head: tuple[float, float] = (0.145, 0.18)
    across: tuple[float, float] = (0.40, 0.60)
    down: tuple[float, float] = (0.42, 0.50)
    turn: float = 0.13
    eyes: tuple[float, float] = (0.92, 1.08)
    build: tuple[float, float] = (0.92, 1.08)
    poses: tuple[str, ...] = POSES


@dataclass(frozen=True)
class Scene:
    """A cat, what it wears, what is around it, and where it is. `None` means that the thing is not there.

    Attributes:
        mirrored: whether the cat's body faces right.
        variation: numbers in [0, 1] for the shapes of body, tail, face and background.
    """

    coat: Coat
    eyes: RGB
    pose: str
    place: str
    x: float
    y: float
    head: float
    turn: float
    mirrored: bool
    line: float
    eye_size: float
    build: float
    variation: tuple[float, ...]
    hat: Thing | None = None
    glasses: Thing | None = None
    bow_tie: Thing | None = None
    balloon: Thing | None = None
    flower: Thing | None = None
    moon: Thing | None = None

    def thing(self, name: str) -> Thing | None:
        """Return the thing in the place of `name`, one of `THINGS`."""
        found: Thing | None = getattr(self, name.replace(" ", "_"))
        return found

    def with_thing(self, name: str, thing: Thing | None) -> Scene:
        """Return the same scene with another thing, or none, in the place of `name`."""
        return replace(self, **{name.replace(" ", "_"): thing})


# The share of scenes that hold each thing.
_SHARE = {"hat": 0.6, "glasses": 0.22, "bow tie": 0.28, "balloon": 0.28, "flower": 0.28, "moon": 0.45}


def random_scene(rng: np.random.Generator, style: Style | None = None) -> Scene:
    """Draw a scene by lot. The same generator state gives the same scene."""
    style = Style() if style is None else style
    scene = Scene(
        coat=COATS[rng.integers(len(COATS))],
        eyes=EYES[rng.integers(len(EYES))],
        pose=style.poses[rng.integers(len(style.poses))],
        place=PLACES[rng.integers(len(PLACES))],
        x=rng.uniform(*style.across),
        y=rng.uniform(*style.down),
        head=rng.uniform(*style.head),
        turn=rng.uniform(-style.turn, style.turn),
        mirrored=bool(rng.integers(2)),
        line=rng.uniform(*style.line) / 1000,
        eye_size=rng.uniform(*style.eyes),
        build=rng.uniform(*style.build),
        variation=tuple(rng.uniform(size=24).tolist()),
    )
    sides = {"balloon": SIDES[rng.integers(2)], "flower": SIDES[rng.integers(2)]}
    # Balloon and moon share the sky: never on the same side.
    sides["moon"] = SIDES[1 - SIDES.index(sides["balloon"])]
    for name in THINGS:
        present = rng.uniform() < _SHARE[name]
        thing = random_thing(rng, name, sides.get(name))
        if present and (name != "moon" or scene.place in OUTDOORS):
            scene = scene.with_thing(name, thing)
    return scene


def random_thing(rng: np.random.Generator, name: str, side: str | None) -> Thing:
    """Draw a thing for the place of `name`, one of `THINGS`, by lot."""
    kind = HATS[rng.integers(len(HATS))] if name == "hat" else name
    colours = MOON_COLOURS if name == "moon" else tuple(THING_COLOURS)
    colour = colours[rng.integers(len(colours))]
    return make_thing(rng, kind, colour, side)


def make_thing(rng: np.random.Generator, kind: str, colour: str, side: str | None = None) -> Thing:
    """Return a thing of this kind and colour; tone, size and position are drawn by lot."""
    r, g, b = (c + rng.uniform(-7, 7) for c in THING_COLOURS[colour])
    at = (rng.uniform(), rng.uniform())
    return Thing(kind, colour, (r, g, b), side, at, rng.uniform(0.92, 1.08))

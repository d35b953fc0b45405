"""Colours: of things (by the names that captions use), of coats and of eyes. RGB in [0, 255]."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[float, float, float]

THING_COLOURS: dict[str, RGB] = {
    "red": (222, 52, 58),
    "yellow": (252, 204, 50),
    "green": (62, 158, 84),
    "blue": (52, 108, 216),
    "purple": (140, 82, 196),
    "pink": (248, 138, 184),
    "black": (50, 48, 56),
    "white": (248, 246, 240),
}
MOON_COLOURS = ("yellow", "white", "red", "blue")

EYES: tuple[RGB, ...] = ((124, 178, 66), (236, 180, 52), (84, 160, 206), (178, 128, 64), (72, 158, 134))
NOSE: RGB = (236, 138, 146)
INNER_EAR: RGB = (244, 178, 176)
INK: RGB = (58, 46, 52)


@dataclass(frozen=True)
class Coat:
    """A cat's fur: the `base` colour, the `light` of muzzle, chest and paws, and the `mark` of its pattern.

    `colour` and `pattern` are the words of captions; a plain coat has the pattern "plain".
    """

    colour: str
    pattern: str
    base: RGB
    light: RGB
    mark: RGB


COATS: tuple[Coat, ...] = (
    Coat("white", "plain", (250, 246, 238), (255, 253, 248), (226, 218, 206)),
    Coat("black", "plain", (64, 60, 70), (92, 87, 98), (46, 42, 50)),
    Coat("grey", "plain", (148, 152, 164), (196, 198, 206), (112, 116, 130)),
    Coat("ginger", "plain", (242, 162, 84), (255, 224, 184), (214, 118, 48)),
    Coat("brown", "plain", (156, 112, 80), (208, 172, 138), (114, 78, 54)),
    Coat("grey", "tabby", (164, 166, 172), (222, 222, 222), (92, 94, 106)),
    Coat("ginger", "tabby", (246, 174, 98), (255, 232, 200), (208, 106, 40)),
    Coat("brown", "tabby", (180, 140, 104), (226, 198, 164), (104, 72, 50)),
    Coat("white", "spotted", (250, 246, 240), (255, 253, 248), (74, 68, 76)),
    Coat("ginger", "spotted", (250, 206, 140), (255, 238, 208), (150, 92, 44)),
    Coat("black", "tuxedo", (60, 58, 68), (252, 248, 242), (60, 58, 68)),
    Coat("brown", "siamese", (242, 226, 202), (250, 240, 224), (108, 80, 68)),
)


def shade(colour: RGB, factor: float) -> RGB:
    """Darken `colour` for a factor below 1; above 1, move it towards white by `factor - 1`."""
    if factor <= 1:
        return (colour[0] * factor, colour[1] * factor, colour[2] * factor)
    return mix(colour, (255, 255, 255), factor - 1)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Return the blend with `share` in [0, 1] of the second colour."""
    r, g, b = ((1 - share) * a + share * c for a, c in zip(first, second, strict=True))
    return (r, g, b)


def outline_of(colour: RGB) -> RGB:
    """Return the colour of a shape's outline: a dark tone of its own, never pure black."""
    return mix(shade(colour, 0.42), INK, 0.45)

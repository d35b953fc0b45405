"""What the judge's numbers mean: for each thing its kind or none, its colour and its box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.drawings.canvas import Box
from benchmarks.drawings.palette import THING_COLOURS
from benchmarks.drawings.scene import HATS, SIDES, THINGS

COLOURS = tuple(THING_COLOURS)
# The kinds in each thing's place, after "none".
KINDS: Mapping[str, tuple[str, ...]] = {name: HATS if name == "hat" else (name,) for name in THINGS}


def _layout() -> dict[str, tuple[slice, slice, slice]]:
    """Return where each thing's numbers are: scores of none and of the kinds, scores of colours, the box."""
    slices, start = {}, 0
    for name in THINGS:
        edges = np.cumsum([start, 1 + len(KINDS[name]), len(COLOURS), 4])
        slices[name] = tuple(slice(int(a), int(b)) for a, b in pairwise(edges))
        start = int(edges[-1])
    return slices


LAYOUT = _layout()
OUTPUTS = LAYOUT[THINGS[-1]][2].stop


@dataclass(frozen=True)
class Seen:
    """A thing in a picture: its kind, its colour, its box (left, top, right, bottom in [0, 1]), and how sure that is.

    Attributes:
        confidence: the probability of the kind times that of the colour.
    """

    kind: str
    colour: str
    box: Box
    confidence: float

    @property
    def side(self) -> str:
        """The half of the picture that the box's middle is in: "left" or "right"."""
        return SIDES[int((self.box[0] + self.box[2]) / 2 > 0.5)]


@dataclass(frozen=True)
class Reading:
    """What a picture shows: a `Seen` for each thing that is there, by its name in `THINGS`."""

    things: Mapping[str, Seen]

    @classmethod
    def of(cls, outputs: np.ndarray) -> Reading:
        """Read one picture's numbers, (OUTPUTS,)."""
        things = {}
        for name, (kinds, colours, box) in LAYOUT.items():
            kind, colour = _softmax(outputs[kinds]), _softmax(outputs[colours])
            if (best := int(kind.argmax())) == 0:
                continue
            left, top, right, bottom = outputs[box].tolist()
            confidence = float(kind.max() * colour.max())
            things[name] = Seen(
                KINDS[name][best - 1], COLOURS[int(colour.argmax())], (left, top, right, bottom), confidence
            )
        return cls(things)

    def facts(self) -> set[str]:
        """Return the facts about things that hold, in the words of `benchmarks.drawings.facts_of_scene`."""
        facts = set()
        for name in THINGS:
            seen = self.things.get(name)
            if seen is None:
                facts.add(f"no {name}")
                continue
            facts |= {name, f"{seen.colour} {name}", seen.kind, f"{seen.colour} {seen.kind}"}
            if name in ("balloon", "flower", "moon"):
                facts |= {f"{name} {seen.side}", f"{seen.colour} {name} {seen.side}"}
        return facts

    def agrees(self, stated: set[str]) -> bool:
        """Return whether every stated fact about things holds; facts about cat, pose and place are not looked at."""
        about_things = {
            fact for fact in stated if not fact.endswith("cat") and not fact.startswith(("pose ", "place "))
        }
        return about_things <= self.facts()


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    share: np.ndarray = powers / powers.sum()
    return share

"""What a scene is like, as the values of a few attributes that an embedding should distinguish."""

from __future__ import annotations

from benchmarks.drawings.palette import COATS, MOON_COLOURS, THING_COLOURS
from benchmarks.drawings.scene import HATS, PLACES, POSES, SIDES, THINGS, Scene

ABSENT = -100  # the value of a colour or side of a thing that is not there; cross-entropy ignores it


def _values() -> dict[str, list[str]]:
    found = {"coat": [f"{coat.colour} {coat.pattern}" for coat in COATS], "pose": [*POSES], "place": [*PLACES]}
    for name in THINGS:
        found[name] = ["none", *(HATS if name == "hat" else [name])]
        found[f"{name} colour"] = [*(MOON_COLOURS if name == "moon" else THING_COLOURS)]
        if name in ("balloon", "flower", "moon"):
            found[f"{name} side"] = [*SIDES]
    return found


_VALUES = _values()
ATTRIBUTES = {name: len(values) for name, values in _VALUES.items()}  # numbers of values


def attributes_of(scene: Scene) -> list[int]:
    """Return the values of `ATTRIBUTES` in a scene: numbers, or `ABSENT`."""
    present = {"coat": f"{scene.coat.colour} {scene.coat.pattern}", "pose": scene.pose, "place": scene.place}
    for name in THINGS:
        thing = scene.thing(name)
        present[name] = "none" if thing is None else thing.kind
        if thing is not None:
            present[f"{name} colour"] = thing.colour
            if thing.side is not None:
                present[f"{name} side"] = thing.side
    return [values.index(present[name]) if name in present else ABSENT for name, values in _VALUES.items()]

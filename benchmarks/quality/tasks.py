"""What the model is asked to do: put a thing into a held-out drawing, or take one away.

Everything follows from the task's number. No seed of the drawings is used in any training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.drawings import THINGS, Scene, Thing, draw, random_scene
from benchmarks.drawings.scene import OUTDOORS, SIDES, random_thing
from kandinsky_export.comparison.cases import Case, Pictures, generated, inpainted

WORLD, HELD_OUT = 771_003, 771_004  # seeds of the tasks' drawings, and of those to compare with
SIZE = 192

_REMOVED = 0.2  # of the tasks
_REMOVABLE = ("hat", "glasses", "bow tie", "balloon")  # what captions say is missing
_SHARES = {"hat": 0.4, "glasses": 0.12, "bow tie": 0.12, "balloon": 0.12, "flower": 0.12, "moon": 0.12}
_NAMES_A_SIDE = 0.5


@dataclass(frozen=True)
class Task:
    """One thing to do in one drawing.

    Attributes:
        prompt: the words, such as "a red top hat" or "no hat".
        name: the thing's place, of `THINGS`.
        wanted: the thing; None to take it away.
        names_side: whether the prompt says on which side it is.
        picture: (size, size, 3) uint8, the drawing to change.
        target: (size, size, 3) uint8, the drawing that would be right.
        mask: (size, size) uint8, 255 where the picture is repainted.
    """

    prompt: str
    name: str
    wanted: Thing | None
    names_side: bool
    picture: np.ndarray
    target: np.ndarray
    mask: np.ndarray


def make_task(number: int, size: int = SIZE) -> Task:
    """Draw a task by lot."""
    rng = np.random.default_rng([WORLD, number])
    scene = random_scene(rng)
    removed = rng.uniform() < _REMOVED
    name = _place(rng, scene, _REMOVABLE if removed else THINGS)
    thing = random_thing(rng, name, _side(rng, scene, name))
    if removed:
        before, after = scene.with_thing(name, thing), scene.with_thing(name, None)
    else:
        before, after = scene.with_thing(name, None), scene.with_thing(name, thing)
    drawn_before, drawn_after = draw(before, size), draw(after, size)
    left, top, right, bottom = (drawn_before if removed else drawn_after).boxes[name]
    margins = rng.uniform(0.02, 0.08, size=4)
    edges = np.clip([left - margins[0], top - margins[1], right + margins[2], bottom + margins[3]], 0, 1) * size
    x0, y0, x1, y1 = edges.round().astype(int)
    mask = np.zeros((size, size), np.uint8)
    mask[y0:y1, x0:x1] = 255
    names_side = bool(thing.side is not None and not removed and rng.uniform() < _NAMES_A_SIDE)
    prompt = f"no {name}" if removed else _phrase(thing, names_side)
    return Task(prompt, name, None if removed else thing, names_side, drawn_before.pixels, drawn_after.pixels, mask)


def cases_for(
    tasks: Sequence[Task], seeds: int, *, inpainting: bool, prompts: Sequence[str] | None = None
) -> list[Case]:
    """Every task with so many seeds, each with noise of its own.

    Args:
        tasks: the tasks.
        seeds: results of each task.
        inpainting: whether the model repaints the drawing; else it makes a picture from the prompt alone.
        prompts: other prompts than the tasks' own, one for each.
    """
    cases = []
    for number, task in enumerate(tasks):
        prompt = task.prompt if prompts is None else prompts[number]
        pictures = _inpainted(task) if inpainting else generated(height=task.mask.shape[0], width=task.mask.shape[1])
        cases += [Case(prompt, number * seeds + k, {"prompt": prompt}, pictures) for k in range(seeds)]
    return cases


def shuffled_prompts(tasks: Sequence[Task]) -> list[str]:
    """Every task's prompt, moved on to another task; none stays where it was if there are at least two tasks."""
    order = np.random.default_rng(WORLD).permutation(len(tasks))
    prompts = [""] * len(tasks)
    for giver, taker in zip(order, np.roll(order, 1), strict=True):
        prompts[taker] = tasks[giver].prompt
    return prompts


def held_out_drawings(count: int, size: int) -> np.ndarray:
    """Whole drawings (count, size, size, 3) uint8 that no task has, as the model's pictures should look."""
    return np.stack([draw(random_scene(np.random.default_rng([HELD_OUT, k])), size).pixels for k in range(count)])


def digest(tasks: Sequence[Task]) -> str:
    """A name that changes if any prompt, picture or mask does."""
    found = hashlib.sha256()
    for task in tasks:
        found.update(task.prompt.encode())
        for pixels in (task.picture, task.target, task.mask):
            found.update(pixels.tobytes())
    return found.hexdigest()[:16]


def _inpainted(task: Task) -> Pictures:
    return inpainted(Image.fromarray(task.picture), Image.fromarray(task.mask))


def _place(rng: np.random.Generator, scene: Scene, choices: Sequence[str]) -> str:
    names = [name for name in choices if name != "moon" or scene.place in OUTDOORS]
    shares = np.array([_SHARES[name] for name in names])
    return names[rng.choice(len(names), p=shares / shares.sum())]


def _side(rng: np.random.Generator, scene: Scene, name: str) -> str | None:
    """A side for the thing; balloon and moon share the sky, never on the same side."""
    if name not in ("balloon", "flower", "moon"):
        return None
    other = scene.thing({"balloon": "moon", "moon": "balloon"}.get(name, name))
    side = SIDES[rng.integers(2)]
    if name == "flower" or other is None:
        return side
    return SIDES[1 - SIDES.index(str(other.side))]


def _phrase(thing: Thing, names_side: bool) -> str:
    words = f"{thing.colour} {thing.kind}" + (f" on the {thing.side}" if names_side else "")
    return words if thing.kind == "glasses" else f"a {words}"

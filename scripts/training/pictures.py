"""Stage 1: draw the training pictures, in pairs that differ in one thing.

A shard is `pictures-NNN.npy`, (pairs, 2, size, size, 3) uint8, with `pictures-NNN.json`: for each picture its facts and
its things' boxes, and for each pair the name of the thing that differs. A shard depends on its number alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drawings import THINGS, Scene, draw, facts_of_scene, random_scene
from benchmarks.drawings.scene import OUTDOORS, SIDES, random_thing
from scripts.training.command import StageError, require, run_stage
from scripts.training.settings import PAIRS_PER_SHARD, PICTURE, SEED, count, parser

# The chance that a pair differs in this thing.
_CHANGED = {"hat": 0.5, "glasses": 0.1, "bow tie": 0.12, "balloon": 0.1, "flower": 0.1, "moon": 0.08}
_SWAPPED = 0.35  # of the pairs hold another thing in the same place instead of none
HELD_OUT = 10_000  # the first number of shards that no training reads


@dataclass(frozen=True)
class Shard:
    """Pairs of pictures: `pictures` is (pairs, 2, size, size, 3) uint8; `notes` holds one entry per picture."""

    pictures: np.ndarray
    notes: list[list[dict[str, Any]]]
    changed: list[str]


def random_pair(rng: np.random.Generator) -> tuple[Scene, Scene, str]:
    """Draw two scenes by lot that differ in one thing, and its name."""
    scene = random_scene(rng)
    while True:
        name = str(rng.choice(THINGS, p=[_CHANGED[thing] for thing in THINGS]))
        if name != "moon" or scene.place in OUTDOORS:
            break
    side = SIDES[rng.integers(2)] if name in ("balloon", "flower", "moon") else None
    other = {"balloon": scene.moon, "moon": scene.balloon}.get(name)
    if other is not None:
        side = SIDES[1 - SIDES.index(str(other.side))]
    if scene.thing(name) is None:
        scene = scene.with_thing(name, random_thing(rng, name, side))
    side = scene.thing(name).side  # type: ignore[union-attr]
    second = random_thing(rng, name, side) if rng.uniform() < _SWAPPED else None
    return scene, scene.with_thing(name, second), name


def make_shard(folder: Path, number: int, pairs: int = PAIRS_PER_SHARD) -> None:
    """Draw the shard of this number, unless it is there."""
    notes_path = folder / f"pictures-{number:05d}.json"
    if notes_path.exists():
        return
    rng = np.random.default_rng([SEED, number])
    pictures = np.empty((pairs, 2, PICTURE, PICTURE, 3), np.uint8)
    notes, changed = [], []
    for index in range(pairs):
        *scenes, name = random_pair(rng)
        changed.append(name)
        of_pair = []
        for side, scene in enumerate(scenes):
            drawing = draw(scene, PICTURE)
            pictures[index, side] = drawing.pixels
            of_pair.append({"facts": sorted(facts_of_scene(scene)), "boxes": drawing.boxes})
        notes.append(of_pair)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"pictures-{number:05d}.partial.npy"
    np.save(partial, pictures)
    partial.replace(folder / f"pictures-{number:05d}.npy")
    partial = notes_path.with_suffix(".partial")
    partial.write_text(json.dumps({"notes": notes, "changed": changed}), encoding="utf-8")
    partial.replace(notes_path)


def scenes_of_shard(number: int, pairs: int = PAIRS_PER_SHARD) -> list[Scene]:
    """Return the scenes of a shard's pictures, in order: the two of the first pair, of the second, ..."""
    rng = np.random.default_rng([SEED, number])
    return [scene for _ in range(pairs) for scene in random_pair(rng)[:2]]


def read_shard(folder: Path, number: int) -> Shard:
    """Open a shard; its pictures stay on disk until they are read.

    Raises:
        StageError: it has not been drawn yet.
    """
    about = json.loads(require(folder / f"pictures-{number:05d}.json", "pictures").read_text(encoding="utf-8"))
    pictures = np.load(folder / f"pictures-{number:05d}.npy", mmap_mode="r")
    return Shard(pictures, about["notes"], about["changed"])


def shard_numbers(folder: Path) -> list[int]:
    """Return the numbers of the training shards that are there.

    Raises:
        StageError: there is none.
    """
    numbers = [int(path.stem.split("-")[1]) for path in folder.glob("pictures-*.json")]
    if not (found := sorted(n for n in numbers if n < HELD_OUT)):
        raise StageError(f"{folder} has no training pictures; run scripts/train pictures first")
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shards", type=count, default=48, help=f"training shards of {PAIRS_PER_SHARD} pairs")
    args = options.parse_args()
    folder = args.work / "pictures"
    for number in (HELD_OUT, *range(args.shards)):
        make_shard(folder, number)
        print(f"shard {number} is there", flush=True)


if __name__ == "__main__":
    run_stage(main)

"""The drawn world: the same from the same seed, things where they are said to be, captions that are true."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.drawings import (
    HATS,
    THINGS,
    Scene,
    Style,
    caption_of,
    draw,
    facts_of_caption,
    facts_of_scene,
    random_scene,
    words,
)
from benchmarks.drawings.captions import all_facts
from benchmarks.drawings.palette import COATS, THING_COLOURS
from benchmarks.drawings.scene import OUTDOORS, PLACES, POSES, make_thing
from benchmarks.judge import JUDGE_STYLE

SIZE = 96


def scene_of(seed: int) -> Scene:
    return random_scene(np.random.default_rng(seed))


def test_same_seed_same_picture() -> None:
    first, second = (draw(scene_of(3), SIZE) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.boxes == second.boxes
    assert not np.array_equal(first.pixels, draw(scene_of(4), SIZE).pixels)


def test_picture_is_uint8_rgb() -> None:
    pixels = draw(scene_of(0), SIZE).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_name_what_the_scene_holds(seed: int) -> None:
    scene = scene_of(seed)
    boxes = draw(scene, SIZE).boxes
    assert set(boxes) == {name for name in THINGS if scene.thing(name) is not None}
    for left, top, right, bottom in boxes.values():
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_changes_the_picture_inside_its_box_only(name: str) -> None:
    rng = np.random.default_rng(THINGS.index(name))
    for seed in range(4):
        side = ("left", "right")[seed % 2] if name in ("balloon", "flower", "moon") else None
        without = scene_of(seed).with_thing(name, None)
        kind = HATS[seed] if name == "hat" else name
        drawing = draw(without.with_thing(name, make_thing(rng, kind, "red", side)), SIZE)
        left, top, right, bottom = (SIZE * v for v in drawing.boxes[name])
        changed = (drawing.pixels != draw(without, SIZE).pixels).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert len(rows) > 20
        # A pixel of margin: reducing blends neighbours.
        assert rows.min() >= top - 1.5
        assert rows.max() <= bottom + 1.5
        assert columns.min() >= left - 1.5
        assert columns.max() <= right + 1.5


@pytest.mark.parametrize("name", ["balloon", "flower", "moon"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_thing_is_on_its_side(name: str, side: str) -> None:
    scene = scene_of(0).with_thing(name, make_thing(np.random.default_rng(0), name, "blue", side))
    left, _, right, _ = draw(scene, SIZE).boxes[name]
    assert ((left + right) / 2 < 0.5) == (side == "left")


@pytest.mark.parametrize("kind", HATS)
def test_a_hat_shows_its_colour(kind: str) -> None:
    scene = scene_of(1)
    for name in THINGS:
        scene = scene.with_thing(name, None)
    rng = np.random.default_rng(0)
    for colour, rgb in THING_COLOURS.items():
        drawing = draw(scene.with_thing("hat", make_thing(rng, kind, colour)), SIZE)
        left, top, right, bottom = (round(SIZE * v) for v in drawing.boxes["hat"])
        inside = drawing.pixels[top:bottom, left:right].reshape(-1, 3).astype(float)
        near = np.linalg.norm(inside - np.array(rgb), axis=1) < 40
        assert near.mean() > 0.12, colour


@pytest.mark.parametrize("coat", COATS, ids=lambda coat: f"{coat.colour}-{coat.pattern}")
@pytest.mark.parametrize("pose", POSES)
def test_every_coat_and_pose_is_drawn(coat: object, pose: str) -> None:
    scene = replace(scene_of(2), coat=coat, pose=pose)
    assert draw(scene, SIZE).pixels.std() > 10


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_drawn(place: str) -> None:
    assert draw(replace(scene_of(2), place=place), SIZE).pixels.std() > 10


@pytest.mark.parametrize("style", [Style(), JUDGE_STYLE], ids=["checkpoint", "judge"])
def test_captions_are_true_and_parse_back(style: Style) -> None:
    known, spelled, met = set(all_facts(style)), set(words()), set()
    for seed in range(600):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng, style)
        caption = caption_of(scene, rng)
        stated = facts_of_caption(caption)
        assert stated
        assert stated <= facts_of_scene(scene) <= known, caption
        assert set(caption.split()) <= spelled
        met |= stated
    assert {"hat", "no hat", "cat", "moon"} <= met


def test_only_outdoors_is_a_thing_in_the_sky() -> None:
    places = set()
    for seed in range(3_000):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng)
        if "in the sky" in caption_of(scene, rng):
            places.add(scene.place)
    assert places == set(OUTDOORS)


def test_facts_of_training_are_those_of_its_style() -> None:
    # A trained CLIP has an output for each, in this order.
    assert all_facts() == all_facts(Style())
    assert set(all_facts(JUDGE_STYLE)) - set(all_facts()) == {"pose upright"}


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        ("a hat", {"hat"}),
        ("a red hat", {"red hat"}),
        ("no hat", {"no hat"}),
        ("a cat without a hat", {"cat", "no hat"}),
        ("a cat with a blue party hat", {"cat", "blue party hat"}),
        ("An orange striped cat wearing glasses", {"ginger tabby cat", "cat", "glasses"}),
        ("a yellow balloon in the sky", {"yellow balloon"}),
        ("a green woolly hat", {"green beanie"}),
    ],
)
def test_captions_state_facts(caption: str, facts: set[str]) -> None:
    assert facts_of_caption(caption) == facts


def test_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="zeppelin"):
        facts_of_caption("a red zeppelin")

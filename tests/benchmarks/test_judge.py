"""The judge reads held-out drawings: what is there, in which colour, where."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.drawings import HATS, THINGS, Style, draw, facts_of_scene, random_scene
from benchmarks.judge import JUDGE_STYLE, Judge, Reading
from benchmarks.judge.reading import COLOURS, KINDS, LAYOUT, OUTPUTS

SEED = 990_017  # no drawing of this seed took part in any training


def outputs_of(kind: dict[str, str], colour: str = "red", box: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)) -> np.ndarray:
    outputs = np.zeros(OUTPUTS, np.float32)
    for name, (kinds, colours, place) in LAYOUT.items():
        outputs[kinds][0 if name not in kind else 1 + KINDS[name].index(kind[name])] = 9
        outputs[colours][COLOURS.index(colour)] = 9
        outputs[place] = box
    return outputs


def test_layout_covers_every_output_once() -> None:
    covered = [index for slices in LAYOUT.values() for part in slices for index in range(part.start, part.stop)]
    assert covered == list(range(OUTPUTS))


def test_reading_states_facts_as_scenes_do() -> None:
    reading = Reading.of(outputs_of({"hat": "top hat", "balloon": "balloon"}))
    assert set(reading.things) == {"hat", "balloon"}
    assert {"hat", "top hat", "red top hat", "balloon left", "no moon"} <= reading.facts()
    assert reading.agrees({"red hat", "cat", "place night"})
    assert not reading.agrees({"blue hat"})
    assert not reading.agrees({"no hat"})
    assert reading.things["hat"].confidence > 0.99


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.mark.parametrize("style", [Style(), JUDGE_STYLE], ids=["checkpoint", "judge"])
def test_judge_is_right_on_held_out_drawings(judge: Judge, style: Style) -> None:
    scenes = [random_scene(np.random.default_rng([SEED, index]), style) for index in range(150)]
    readings = judge.read(np.stack([draw(scene, 96).pixels for scene in scenes]))
    about = {*THINGS, *HATS}
    right = []
    for scene, reading in zip(scenes, readings, strict=True):
        expected = {fact for fact in facts_of_scene(scene) if any(fact.endswith(name) for name in about)}
        expected |= {fact for fact in facts_of_scene(scene) if fact.startswith(("balloon", "flower", "moon"))}
        right += [fact in reading.facts() for fact in expected]
    assert np.mean(right) >= 0.99


def test_boxes_are_near_what_was_drawn(judge: Judge) -> None:
    drawings = [draw(random_scene(np.random.default_rng([SEED, index])), 96) for index in range(60)]
    errors = [
        np.abs(np.subtract(reading.things[name].box, box)).max()
        for drawing, reading in zip(drawings, judge.read(np.stack([d.pixels for d in drawings])), strict=True)
        for name, box in drawing.boxes.items()
        if name in reading.things
    ]
    assert np.median(errors) < 0.05


def test_larger_pictures_read_the_same(judge: Judge) -> None:
    scenes = [random_scene(np.random.default_rng([SEED, index])) for index in range(8)]
    small, large = (np.stack([draw(scene, size).pixels for scene in scenes]) for size in (96, 192))
    assert [r.facts() for r in judge.read(small)] == [r.facts() for r in judge.read(large)]


def test_features_are_the_input_of_the_outputs(judge: Judge) -> None:
    pictures = np.stack([draw(random_scene(np.random.default_rng(index)), 96).pixels for index in range(2)])
    features = judge.features(pictures)
    assert features.dtype == np.float32
    assert Reading.of(judge.outputs(features)[0]).facts() == judge.read(pictures)[0].facts()

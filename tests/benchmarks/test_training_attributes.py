"""The attributes that CLIP's embedding is trained to distinguish."""

from __future__ import annotations

import numpy as np

from benchmarks.drawings import facts_of_scene
from benchmarks.drawings.scene import random_scene
from scripts.training.attributes import ABSENT, ATTRIBUTES, attributes_of


def test_scenes_with_equal_attributes_have_equal_facts() -> None:
    rng = np.random.default_rng(5)
    facts_by_attributes: dict[tuple[int, ...], set[str]] = {}
    attributes_by_facts: dict[frozenset[str], list[int]] = {}
    for _ in range(3_000):
        scene = random_scene(rng)
        facts, attributes = facts_of_scene(scene), attributes_of(scene)
        assert facts_by_attributes.setdefault(tuple(attributes), facts) == facts
        assert attributes_by_facts.setdefault(frozenset(facts), attributes) == attributes


def test_values_are_in_range() -> None:
    rng = np.random.default_rng(6)
    drawn = np.array([attributes_of(random_scene(rng)) for _ in range(3_000)])
    for values, (name, count) in zip(drawn.T, ATTRIBUTES.items(), strict=True):
        present = set(values.tolist()) - {ABSENT}
        assert present == set(range(count)), name


def test_only_things_that_are_not_there_have_no_colour() -> None:
    rng = np.random.default_rng(7)
    names = list(ATTRIBUTES)
    for _ in range(300):
        values = dict(zip(names, attributes_of(random_scene(rng)), strict=True))
        for name in ("hat", "glasses", "bow tie", "balloon", "flower", "moon"):
            assert (values[f"{name} colour"] == ABSENT) == (values[name] == 0)

"""The tasks say what they ask for, and their masks cover it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.drawings import THINGS, facts_of_caption
from benchmarks.quality.tasks import cases_for, digest, held_out_drawings, make_task, shuffled_prompts

TASKS = [make_task(number, 96) for number in range(60)]


def test_a_number_gives_the_same_task() -> None:
    assert digest([make_task(7, 96)]) == digest([TASKS[7]]) != digest([TASKS[8]])


def test_prompts_state_what_is_wanted() -> None:
    for task in TASKS:
        (fact,) = facts_of_caption(task.prompt)
        if task.wanted is None:
            assert fact == f"no {task.name}"
        else:
            side = f" {task.wanted.side}" if task.names_side else ""
            assert fact == f"{task.wanted.colour} {task.wanted.kind}{side}"


def test_every_kind_of_task_comes_up() -> None:
    assert {task.name for task in TASKS} == set(THINGS)
    assert 4 < sum(task.wanted is None for task in TASKS) < 24
    assert any(task.names_side for task in TASKS)


def test_only_the_masked_part_has_to_change() -> None:
    for task in TASKS:
        changed = (task.picture != task.target).any(axis=-1)
        assert changed.any()
        assert not (changed & (task.mask == 0)).any()
        assert set(np.unique(task.mask)) == {0, 255}


def test_shuffled_prompts_are_the_same_ones_in_other_places() -> None:
    shuffled = shuffled_prompts(TASKS)
    assert Counter(shuffled) == Counter(task.prompt for task in TASKS)
    assert sum(new != task.prompt for new, task in zip(shuffled, TASKS, strict=True)) > len(TASKS) / 2
    first, second = TASKS[:2]
    assert shuffled_prompts([first, second]) == [second.prompt, first.prompt]


def test_every_case_has_noise_of_its_own() -> None:
    cases = cases_for(TASKS[:3], 2, inpainting=True)
    assert [case.seed for case in cases] == [0, 1, 2, 3, 4, 5]
    assert [case.label for case in cases[:3]] == [TASKS[0].prompt] * 2 + [TASKS[1].prompt]
    assert cases[0].pictures.mask is not None
    assert np.array_equal(cases[0].pictures.mask > 0, TASKS[0].mask > 0)
    plain = cases_for(TASKS[:3], 1, inpainting=False, prompts=["a", "b", "c"])
    assert [case.conditioning["prompt"] for case in plain] == ["a", "b", "c"]
    assert plain[0].pictures.options == {"height": 96, "width": 96}


@pytest.mark.parametrize("count", [3])
def test_held_out_drawings(count: int) -> None:
    drawings = held_out_drawings(count, 96)
    assert drawings.shape == (count, 96, 96, 3)
    assert not any(np.array_equal(drawings[0], task.target) for task in TASKS)

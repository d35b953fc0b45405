"""Values for a whole batch or for each sample: lists, lengths, seeds and latents."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky_runtime.batch import as_latents, as_list, check_lengths, finite_floats, per_sample, seeds_for
from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.limits import MAX_SEED


def test_one_value_is_a_list_of_one() -> None:
    array = np.zeros(3)
    assert as_list("image", array)[0] is array
    assert as_list("image", "hat.png") == ["hat.png"]
    assert as_list("image", ("a", "b")) == as_list("image", ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("value", [[], ()])
def test_an_empty_list_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="mask_image is an empty list; give at least one"):
        as_list("mask_image", value)


def test_inputs_have_one_entry_or_one_for_each_prompt() -> None:
    check_lengths(3, image=[1], image_embeds=[1, 2, 3], negative_image_embeds=[])
    with pytest.raises(InputError, match="got 1 image, 2 image_embeds; expected one for all or one for each of 3"):
        check_lengths(3, image=[1], image_embeds=[1, 2], negative_image_embeds=[])


def test_entries_are_repeated_in_a_row() -> None:
    items = np.array([[1, 2], [3, 4]])
    np.testing.assert_array_equal(per_sample(items, 2, 2), [[1, 2], [1, 2], [3, 4], [3, 4]])
    np.testing.assert_array_equal(per_sample(items[:1], 3, 1), [[1, 2]] * 3)


@given(st.integers(1, 40), st.integers(0, 2**40))
def test_one_seed_starts_consecutive_seeds(batch: int, first: int) -> None:
    seeds = seeds_for(first, batch)
    assert seeds == tuple(range(first, first + batch))
    assert seeds_for(list(seeds), batch) == seeds_for(seeds, batch) == seeds
    assert seeds_for(np.array(seeds), batch) == seeds


def test_no_seed_draws_one() -> None:
    seeds = [seeds_for(None, 2) for _ in range(8)]
    assert all(second == first + 1 for first, second in seeds)
    assert len({*seeds}) > 1


def test_seeds_are_limited() -> None:
    assert seeds_for(MAX_SEED - 2, 3)[-1] == MAX_SEED
    with pytest.raises(UsageError, match=f"seed is {MAX_SEED - 1}"):
        seeds_for(MAX_SEED - 1, 3)
    with pytest.raises(UsageError, match="seed is -1"):
        seeds_for([0, -1], 2)
    with pytest.raises(InputError, match="got 1 seeds for 2 results; expected one, or one for each result"):
        seeds_for([0], 2)


@pytest.mark.parametrize("seed", [1.5, "1", True, [None, 1]])
def test_seeds_of_another_type_are_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed is "):
        seeds_for(seed, 2)


def test_latents_are_a_float32_copy() -> None:
    given_latents = np.arange(8.0).reshape(1, 2, 2, 2)
    latents = as_latents("latents", given_latents, (1, 2, 2, 2))
    assert latents.dtype == np.float32
    latents += 1
    np.testing.assert_array_equal(given_latents, np.arange(8).reshape(1, 2, 2, 2))
    same_type = np.zeros((1, 1), np.float32)
    assert not np.may_share_memory(as_latents("latents", same_type, (1, 1)), same_type)


def test_latents_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"latents: the shape is \(1, 2\); this run takes \(2, 1\)"):
        as_latents("latents", np.zeros((1, 2)), (2, 1))


@pytest.mark.parametrize("value", [[1.0, np.nan], [-np.inf], 1e39])
def test_numbers_that_are_not_finite_in_float32_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="weights: has NaN, infinity or numbers too large for float32"):
        finite_floats("weights", value)

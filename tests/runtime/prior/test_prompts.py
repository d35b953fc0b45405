"""Which values are prompts, and the errors for other values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.prior.prompts import MAX_CHARACTERS, Mix, Prompt, read_negative_prompts, read_prompts

PICTURES = [Path("hat.png"), b"\x89PNG", Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8)]


def refusal(prompt: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_prompts(prompt)
    return str(caught.value)


@given(st.lists(st.text(), min_size=1))
def test_valid_texts_are_unchanged(texts: list[str]) -> None:
    valid = [text.encode("utf-8", "replace").decode() for text in texts]
    assert read_prompts(valid) == ([Prompt((text,), plain=True) for text in valid], [])
    assert read_prompts(tuple(valid)) == read_prompts(valid)
    assert read_prompts(valid[0]) == read_prompts(valid[:1])


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: type(picture).__name__)
def test_a_picture_is_a_prompt(picture: Any) -> None:
    (prompt,), (read,) = read_prompts(picture)
    assert read is picture
    assert (prompt.parts, prompt.texts, prompt.weights, prompt.plain) == ((0,), (), (1.0,), False)


def test_an_object_given_several_times_is_one_picture() -> None:
    first, second = PICTURES[2], PICTURES[3]
    prompts, pictures = read_prompts([first, Mix([second, "a hat", first], [1, 1, 1]), second])
    assert [prompt.parts for prompt in prompts] == [(0,), (1, "a hat", 0), (1,)]
    assert [item is expected for item, expected in zip(pictures, (first, second), strict=True)] == [True, True]


def test_a_mix_has_texts_and_pictures() -> None:
    (prompt,), pictures = read_prompts(Mix(["a hat", PICTURES[0], ""], (0.5, -2, np.float32(0.25))))
    assert prompt.parts == ("a hat", 0, "")
    assert (prompt.texts, pictures) == (("a hat", ""), [PICTURES[0]])
    assert prompt.weights == (0.5, -2.0, 0.25)
    assert not prompt.plain, "a mix of one text draws its noise in another order than a text"


def test_the_length_of_a_text_is_limited() -> None:
    read_prompts("a" * MAX_CHARACTERS)
    assert refusal("a" * (MAX_CHARACTERS + 1)) == "prompt has 100,001 characters; expected at most 100,000"


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\udfff" * 3])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    assert "has half a surrogate pair" in refusal(text)
    assert "has half a surrogate pair" in refusal(["a", text])
    assert "has half a surrogate pair" in refusal(Mix([text], [1]))


@pytest.mark.parametrize("prompt", [None, 3, True, {}, {"a"}, object(), iter(["a"]), [["a"]], [None], range(2)])
def test_other_values_are_refused(prompt: Any) -> None:
    assert "; expected a text, a picture, a Mix, or a list of them" in refusal(prompt)


@pytest.mark.parametrize(
    ("parts", "weights", "text"),
    [
        ([], [], "a mix has 0 parts and 0 weights; expected a weight for each part"),
        (["a", "b"], [1], "a mix has 2 parts and 1 weights"),
        (["a"], [[1]], "a mix has 1 parts and 1 weights"),
        (["a"], [np.inf], "the weights of a mix: has NaN, infinity"),
        (["a"], ["1"], "the weights of a mix: got list of dtype <U1; expected real numbers"),
        (["a"], None, "the weights of a mix: got NoneType"),
        ("a hat", [1], "the parts of a mix are a str; expected a list of texts and pictures"),
        (3, [1], "the parts of a mix are a int"),
        (None, [1], "the parts of a mix are a NoneType"),
        (np.zeros((2, 2, 3)), [1, 1], "the parts of a mix are a ndarray"),
        ([3], [1], "prompt is a int; expected a text, a picture"),
        ([Mix(["a"], [1])], [1], "a mix contains another mix; put all parts into one mix"),
        (["a" * (MAX_CHARACTERS + 1)], [1], "prompt has 100,001 characters"),
    ],
)
def test_invalid_mixes_are_refused(parts: Any, weights: Any, text: str) -> None:
    assert text in refusal(Mix(parts, weights))


def test_negative_prompts_are_one_for_all_or_one_for_each() -> None:
    assert read_negative_prompts(None, 3) == [None, None, None]
    assert read_negative_prompts("a", 3) == read_negative_prompts(["a"], 3) == ["a", "a", "a"]
    assert read_negative_prompts(("a", ""), 2) == ["a", ""]


@pytest.mark.parametrize(
    ("negative", "text"),
    [
        ([], "got 0 negative_prompt for 3 prompts; expected one for all or one for each"),
        (["a", "b"], "got 2 negative_prompt for 3 prompts"),
        (3, "negative_prompt is a int; expected a text"),
        (["a", None, "b"], "negative_prompt is a NoneType; expected a text"),
        (np.zeros((2, 2, 3)), "negative_prompt is a ndarray; expected a text"),
        ("\ud800", "negative_prompt has half a surrogate pair"),
    ],
)
def test_invalid_negative_prompts_are_refused(negative: Any, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_negative_prompts(negative, 3)
    assert text in str(caught.value)

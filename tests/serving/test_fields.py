"""The fields of a request, and the errors that name them."""

from __future__ import annotations

from typing import Any

import pytest

from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.answers import Refusal, refusal_of
from kandinsky_runtime.serving.bodies import json_object
from kandinsky_runtime.serving.fields import EDITS, GENERATIONS, Asked, FieldError, read_fields

IMAGE = "data:image/png;base64,AAAA"


def read(fields: dict[str, Any], endpoint: str = GENERATIONS, most_steps: int = 250) -> Asked:
    given = {"prompt": "a hat"} | ({"image": IMAGE} if endpoint == EDITS else {}) | fields
    return read_fields(endpoint, given, {}, most_steps=most_steps)


def refused(fields: dict[str, Any], endpoint: str = GENERATIONS, most_steps: int = 250) -> tuple[str, str]:
    with pytest.raises(FieldError) as caught:
        read(fields, endpoint, most_steps)
    return caught.value.param, str(caught.value)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("value", [["a secret"], {"text": "a secret"}, [["a secret"]]])
def test_no_error_shows_a_prompt(name: str, value: Any) -> None:
    """Errors are logged, and prompts are not."""
    param, message = refused({name: value})
    assert param == name
    assert message == f"{name} is a JSON {type(value).__name__}; expected a text"


def test_both_numbers_of_steps_are_limited() -> None:
    assert refused({"num_inference_steps": 11}, most_steps=10)[0] == "num_inference_steps"
    param, message = refused({"num_inference_steps": 10, "prior_num_inference_steps": 11}, most_steps=10)
    assert (param, message) == (
        "prior_num_inference_steps", "prior_num_inference_steps is 11; this server takes at most 10"
    )  # fmt: skip
    assert refused({"prior_num_inference_steps": 100_000})[0] == "prior_num_inference_steps"
    asked = read({"num_inference_steps": 10, "prior_num_inference_steps": 10}, most_steps=10)
    assert asked.options["prior_num_inference_steps"] == 10


@pytest.mark.parametrize("value", [1e10, 0, -1, True, "x", float("inf")])
def test_timeouts_that_are_refused(value: Any) -> None:
    param, message = refused({"timeout": value})
    assert param == "timeout"
    assert "expected seconds above 0 and up to 1,000,000,000" in message


def test_null_is_the_default_of_a_field_and_no_field() -> None:
    assert read({"seed": None, "style": None}) == read({})
    assert read({"mask": None}, EDITS) == read({}, EDITS)
    for name in ("sede", "image", "mask"):
        assert refused({name: None})[0] == name
    assert refused({"sede": None}, EDITS)[0] == "sede"


@pytest.mark.parametrize("text", [b'{"seed": 1, "seed": 2}', b'{"image": {"seed": 1, "seed": 1}}'])
def test_a_name_that_is_there_twice(text: bytes) -> None:
    with pytest.raises(Refusal, match="seed is there twice; give it once") as caught:
        json_object(text)
    assert (caught.value.status, caught.value.param) == (400, "seed")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("height is 3; expected at least 64", "height"),
        ("image has 3 pixels", "image"),
        ("the result is 9000x9000 pixels; expected less", None),
        ("got 2 seeds for 1 picture", None),
        ("3 is odd", None),
    ],
)
def test_the_param_of_an_error_is_a_field(message: str, param: str | None) -> None:
    assert refusal_of(UsageError(message)).param == param

"""Inputs of text-to-image and image-to-image: one request, or a sentence that says what is wrong."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.generate_inputs import GenerateRequest, first_step, prepare_generate
from kandinsky_runtime.decoder.options import GenerateOptions
from kandinsky_runtime.errors import InputError, UsageError
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, FACTOR, MULTIPLE, WIDTH
from tests.tolerances import PICTURE_TO_EIGHT_BIT

RNG = np.random.default_rng(0)
GEOMETRY = Geometry.of(fake_bundle.with_prior(plain=True))
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)


def picture(height: int = 64, width: int = 80) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


SOUND: dict[str, Any] = {
    "image": None,
    "image_embeds": EMBEDS,
    "negative_image_embeds": NEGATIVE,
    "height": None,
    "width": None,
    "guidance_scale": 4.0,
    "num_images_per_prompt": 1,
    "seed": 0,
    "latents": None,
}
PROMPTS = {"image_embeds": None, "negative_image_embeds": None, "prompt": "a cat"}


def request(prompt_count: int = 0, **changes: Any) -> GenerateRequest:
    return prepare_generate(GEOMETRY, GenerateOptions(**{**SOUND, **changes}), prompt_count)


def refusal(**changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        request(**changes)
    return str(caught.value)


# -- strength --


@pytest.mark.parametrize(
    ("steps", "strength", "first"),
    [
        (100, None, 70),
        (10, None, 7),
        (100, 0.29, 72),  # 100 · 0.29 is 28.999… in floats, as in the reference
        (50, 0.58, 22),  # 28.999…, too
        (100, 0.57, 44),  # 56.99…
        (7, 0.5, 4),  # 3.5 is cut, not rounded
        (100, 1, 0),
        (1, 1.0, 0),
        (100, 0.01, 99),
        (4, np.float32(0.25), 3),
        (4, np.int64(1), 0),
    ],
)
def test_the_first_step(steps: int, strength: Any, first: int) -> None:
    assert request(image=picture(), num_inference_steps=steps, strength=strength).first_step == first


@given(st.integers(1, 1000), st.floats(0, 1, exclude_min=True))
def test_the_share_of_the_steps_that_is_taken(steps: int, strength: float) -> None:
    share = Fraction(strength) * steps
    try:
        taken = steps - first_step(steps, strength)
    except InputError as error:
        assert share < 1
        assert "of either" in str(error)
        return
    assert 1 <= taken <= steps
    assert share - 1 < taken <= share + Fraction(1, 10**9), "cut off, but for the rounding of one product"


@pytest.mark.parametrize("strength", [0, -0.1, 1.0000001, 2, np.nan, np.inf, "0.5", True, [0.5], np.array([0.5])])
def test_an_invalid_strength(strength: Any) -> None:
    with pytest.raises(InputError, match=r"strength is .*; expected a number above 0 and up to 1"):
        request(image=picture(), strength=strength)


def test_a_strength_that_leaves_no_step() -> None:
    with pytest.raises(InputError, match=r"strength 0\.3 of 3 steps leaves none; give more of either"):
        request(image=picture(), num_inference_steps=3)


def test_strength_goes_with_a_picture() -> None:
    assert request().first_step == 0
    with pytest.raises(InputError, match="strength goes with a picture to change"):
        request(strength=0.5)


# -- sizes --


@pytest.mark.parametrize(
    ("size", "asked", "result"),
    [
        (None, (None, None), (512, 512)),
        (None, (64, None), (64, 512)),
        (None, (65, 130), (65, 130)),
        ((70, 90), (None, None), (70, 90)),
        ((70, 90), (None, 128), (70, 128)),
        ((30, 40), (64, 64), (64, 64)),
    ],
)
def test_sizes(size: Any, asked: Any, result: tuple[int, int]) -> None:
    got = request(image=None if size is None else picture(*size), height=asked[0], width=asked[1])
    assert (got.height, got.width) == result
    cells = tuple(-(-side // MULTIPLE) * MULTIPLE // FACTOR for side in result)
    assert got.latent_shape == (1, CHANNELS, *cells)
    padded = tuple(cell * FACTOR for cell in cells)
    assert got.pixels.shape == (0 if size is None else 1, 3, *padded)


def test_a_picture_of_the_size_is_taken_as_it_is() -> None:
    given = picture(64, 80)
    got = request(image=given)
    np.testing.assert_allclose((got.pixels[0].transpose(1, 2, 0) + 1) * 127.5, given, rtol=0, atol=PICTURE_TO_EIGHT_BIT)
    assert got.pixels.dtype == np.float32


# -- batches --


def test_text_to_image_has_no_pictures() -> None:
    got = request(num_images_per_prompt=2)
    assert (got.batch, got.picture_of, got.seeds) == (2, (), (0, 1))


def test_every_sample_has_its_own() -> None:
    embeds, negative = (RNG.standard_normal((3, WIDTH), np.float32) for _ in range(2))
    got = request(
        image=[picture() for _ in range(3)],
        image_embeds=embeds,
        negative_image_embeds=negative,
        num_images_per_prompt=2,
    )
    assert got.picture_of == (0, 0, 1, 1, 2, 2)
    assert got.pixels.shape[0] == 3
    np.testing.assert_array_equal(got.image_embeds, embeds.repeat(2, axis=0))
    np.testing.assert_array_equal(got.negative_image_embeds, negative.repeat(2, axis=0))


def test_what_is_given_once_serves_all() -> None:
    got = request(image=picture(), **PROMPTS, prompt_count=3, num_images_per_prompt=2)
    assert (got.batch, got.picture_of) == (6, (0,) * 6)
    assert got.image_embeds.shape == got.negative_image_embeds.shape == (0, WIDTH), "the prior makes them"
    assert request(image=[picture(), picture()], **PROMPTS, prompt_count=1).picture_of == (0, 1)


def test_without_guidance_no_negative_is_needed() -> None:
    got = request(guidance_scale=1, negative_image_embeds=None)
    assert got.negative_image_embeds.shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image": []}, "image is an empty list; give at least one"),
        ({"image": "nowhere.png"}, "image nowhere.png does not exist"),
        (
            {"image": [picture()] * 2, "image_embeds": np.ones((3, WIDTH))},
            "got 2 image, 3 image_embeds, 1 negative_ima",
        ),
        (
            {"image": [picture()] * 2, **PROMPTS, "prompt_count": 3},
            "got 2 image, 3 prompt; expected one for all or one",
        ),
        (
            {"image": [picture(64, 64), picture(64, 80)]},
            r"the pictures have several sizes \(64x64, 80x64\); give height",
        ),
        ({"image": picture(63, 80)}, "the picture is 80x63 pixels; results have at least 64x64"),
        ({"height": 63}, "height is 63; expected a whole number of at least 64"),
        ({"width": 64.0}, "width is 64.0; expected a whole number"),
        ({"height": 10**6, "width": 10**6}, "the result would be 1000000x1000000 pixels"),
        ({"image_embeds": None}, "there is no prompt and no image_embeds; give one of them"),
        ({"image_embeds": np.ones(5)}, "the width is 5; this bundle takes 6"),
        ({"negative_image_embeds": None}, "guidance_scale is 4, which needs negative_image_embeds"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"num_images_per_prompt": 1025}, "num_images_per_prompt is 1025"),
        ({**PROMPTS, "prompt_count": 600, "num_images_per_prompt": 2}, "the number of results is 1200"),
        ({"seed": [0, 1]}, "got 2 seeds for 1 results"),
        (
            {"latents": np.zeros((1, CHANNELS, 2, 2))},
            r"latents: the shape is \(1, 4, 2, 2\); this run takes \(1, 4, 64",
        ),
    ],
)
def test_what_cannot_be_used(changes: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        request(**changes)

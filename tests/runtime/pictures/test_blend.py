"""Soft edges: Pillow's filters and a formula in float64 are the oracles, and what has no weight is kept bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from kandinsky_runtime.pictures.area import Areas, around_masks, whole_pictures
from kandinsky_runtime.pictures.mask import fit_weights, read_mask
from tests.tolerances import BLENDED, BLENDED_LEVELS

RNG = np.random.default_rng(16)
COLOURS = RNG.integers(0, 256, (80, 120, 4), np.uint8)
RAMP = np.clip((np.arange(120) - 40) / 40, 0, 1) * np.ones((80, 1))  # over 40 px
RAMP_LEVELS = np.rint(RAMP * 255).astype(np.uint8)
HARD = np.zeros((80, 120), np.uint8)
HARD[30:50, 50:80] = 255


def test_weights_are_the_grey_levels() -> None:
    np.testing.assert_array_equal(fit_weights(read_mask(RAMP_LEVELS), 120, 80), RAMP_LEVELS / np.float32(255))
    blurred = np.asarray(Image.fromarray(HARD).filter(ImageFilter.GaussianBlur(4)))
    np.testing.assert_array_equal(fit_weights(read_mask(HARD), 120, 80, 4), blurred / np.float32(255))


def areas_of(name: str, mode: str, mask: np.ndarray, blur: float | None) -> Areas:
    picture = Image.fromarray(COLOURS).convert(mode)
    if name == "picture":
        return whole_pictures([picture], [read_mask(mask)], height=None, width=None, blur=blur)
    size = {"height": 64, "width": 64} if name == "mask, resized" else {"height": None, "width": None}
    return around_masks([picture], [read_mask(mask)], multiple=8, padding=0, blur=blur, **size)


@pytest.mark.parametrize("name", ["picture", "mask", "mask, resized"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize(
    ("mask", "blur", "some_full"), [(RAMP_LEVELS, 0, True), (HARD, 5, False), (HARD, 0, True), (RAMP_LEVELS, 2.5, True)]
)
def test_a_blend_is_the_formula_and_keeps_what_has_no_weight(
    name: str, mode: str, mask: np.ndarray, blur: float, some_full: bool
) -> None:
    areas = areas_of(name, mode, mask, blur)
    worked = RNG.random((1, *areas.working[::-1], 3), np.float32)
    (result,) = areas.finished(worked, "pil", "blend")
    (floats,) = areas.finished(worked, "np", "blend")
    (replaced,) = areas_of(name, mode, mask, blur).finished(worked, "np", "none")
    weights = np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(blur)) if blur else mask) / 255.0
    old = np.asarray(Image.fromarray(COLOURS).convert(mode))
    new = np.dstack([replaced, np.ones((80, 120))])[..., : old.shape[2]]
    wanted = old / 255.0 * (1 - weights[..., None]) + new * weights[..., None]
    np.testing.assert_allclose(np.asarray(result) / 255, wanted, rtol=0, atol=BLENDED_LEVELS)
    np.testing.assert_allclose(floats, wanted[..., :3], rtol=0, atol=BLENDED)
    np.testing.assert_array_equal(np.asarray(result)[weights == 0], old[weights == 0])
    assert (weights == 0).any()
    assert (weights == 1).any() == some_full, "only the blur of 5 px leaves no full weight"
    assert (np.asarray(result)[weights == 1] != old[weights == 1]).any() == some_full
    assert areas.areas[0].share == (mask >= 128).mean(), "what the model repaints is the mask at one half"


def test_without_a_blend_the_mask_decides() -> None:
    areas = areas_of("picture", "RGB", RAMP_LEVELS, None)
    (result,) = areas.finished(np.zeros((1, 80, 120, 3), np.float32), "pil", "paste")
    kept = RAMP_LEVELS < 128
    np.testing.assert_array_equal(np.asarray(result)[kept], COLOURS[..., :3][kept])
    assert not np.asarray(result)[~kept].any()

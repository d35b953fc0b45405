"""Areas: their boxes, resizing without distortion, and kept pixels that come back bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures.area import Areas, around_masks, whole_pictures
from kandinsky_runtime.pictures.image import fit, read_image
from kandinsky_runtime.pictures.mask import fit_mask, read_mask
from tests.runtime.fake_bundle import MULTIPLE
from tests.tolerances import FLOAT64_SUM


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mask(height: int, width: int, *box: int) -> np.ndarray:
    """White in (left, top, right, bottom)."""
    array = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box or (0, 0, 0, 0)
    array[top:bottom, left:right] = 255
    return array


def around(image: Any, mask_image: Any, **options: Any) -> Areas:
    """`around_masks` of arrays, one or a list of them."""
    pictures = [read_image(item) for item in (image if isinstance(image, list) else [image])]
    masks = [read_mask(item) for item in (mask_image if isinstance(mask_image, list) else [mask_image])]
    return around_masks(pictures, masks, **{"multiple": MULTIPLE, "height": None, "width": None} | options)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    height, width = draw(st.integers(64, 200)), draw(st.integers(64, 200))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    options: dict[str, Any] = {"padding": draw(st.integers(0, 80))}
    if draw(st.booleans()):
        options |= {"height": draw(st.integers(64, 160)), "width": draw(st.integers(64, 160))}
    return picture(height, width), mask(height, width, left, top, right, bottom), options


@settings(max_examples=150, deadline=None)
@given(cases())
def test_any_area_contains_its_mask_and_is_put_back(case: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
    image, painted, options = case
    areas = around(image, painted, **options)
    (area,) = areas.areas
    left, top, right, bottom = area.box
    down, across = painted.shape

    assert 0 <= left < right <= across
    assert 0 <= top < bottom <= down
    rows, columns = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    assert left <= max(0, columns[0] - options["padding"])
    assert right >= min(across, columns[-1] + 1 + options["padding"])
    assert top <= max(0, rows[0] - options["padding"])
    assert bottom >= min(down, rows[-1] + 1 + options["padding"])
    np.testing.assert_array_equal(area.mask * 255, painted[top:bottom, left:right])

    if "height" in options:
        assert areas.working == (options["width"], options["height"])
        scales = area.inner[0] / (right - left), area.inner[1] / (bottom - top)
        half_a_pixel = 0.5 / (right - left) + 0.5 / (bottom - top)
        assert abs(scales[0] - scales[1]) <= half_a_pixel + FLOAT64_SUM, "one factor for both axes"
        assert area.inner[0] == options["width"] or area.inner[1] == options["height"], "as large as fits"
    else:
        assert area.inner == areas.working == (right - left, bottom - top), "nothing is resized"
        for size, limit in zip(areas.working, (across, down), strict=True):
            assert size >= 64
            assert size % MULTIPLE == 0 or size == limit

    (crop,), _ = areas.crops()
    (crop_mask,) = areas.masks()
    assert crop.size == crop_mask.shape[::-1] == areas.working
    assert set(np.unique(crop_mask)) <= {0, 1}

    worked = np.full((1, *areas.working[::-1], 3), 0.5, np.float32)
    for composite in ("paste", "none"):
        (pil,) = areas.finished(worked, "pil", composite)
        (floats,) = areas.finished(worked, "np", composite)
        assert floats.shape == image.shape
        assert floats.dtype == np.float32
        np.testing.assert_array_equal(np.rint(floats * 255), pil)
        replaced = painted == 255 if composite == "paste" else np.zeros_like(painted, bool)
        if composite == "none":
            replaced[top:bottom, left:right] = True
        np.testing.assert_array_equal(np.asarray(pil)[~replaced], image[~replaced])
        assert (np.asarray(pil)[replaced] == 128).all()


@pytest.mark.parametrize(("height", "width"), [(None, None), (200, 160)])
def test_an_unchanged_crop_put_back_gives_the_picture(height: int | None, width: int | None) -> None:
    y, x = np.mgrid[:300, :240]
    smooth = np.stack([y * 255 / 299, x * 255 / 239, (x + y) / 4], axis=-1).astype(np.uint8)
    areas = around(smooth, mask(300, 240, 100, 100, 180, 200), height=height, width=width, padding=0)
    (crop,), _ = areas.crops()
    (whole,) = areas.finished(np.asarray(crop)[None] / np.float32(255), "pil", "none")
    off = np.abs(np.asarray(whole).astype(int) - smooth).max()
    assert off == 0 if height is None else off <= 2, "resized up and down again"


def test_a_crop_is_scaled_by_one_factor_and_padded() -> None:
    image = picture(64, 256)
    areas = around(image, mask(64, 256, 0, 0, 256, 10), height=128, width=128)
    assert areas.areas[0].box == (0, 0, 256, 64)
    assert areas.areas[0].inner == (128, 32)
    (crop,), _ = areas.crops()
    (crop_mask,) = areas.masks()
    pixels = np.asarray(crop)
    np.testing.assert_array_equal(pixels[32:], np.broadcast_to(pixels[31], (96, 128, 3)))
    np.testing.assert_array_equal(crop_mask[:5], 1)
    assert not crop_mask[6:].any()


def test_boxes_at_the_edges_are_within_the_picture() -> None:
    for box in ((0, 0, 5, 5), (295, 0, 300, 5), (0, 195, 5, 200), (295, 195, 300, 200)):
        (area,) = around(picture(200, 300), mask(200, 300, *box), padding=8).areas
        assert (area.box[2] - area.box[0], area.box[3] - area.box[1]) == (64, 64)
        assert area.box[0] in (0, 300 - 64)
        assert area.box[1] in (0, 200 - 64)


def test_several_masks_get_one_size() -> None:
    masks = [mask(200, 300, 10, 10, 30, 120), mask(200, 300, 100, 50, 220, 60), mask(200, 300)]
    areas = around(picture(200, 300), masks, padding=4)
    assert areas.working == (128, 128)
    assert len(areas.areas) == 3
    assert areas.areas[2].box == (86, 36, 214, 164), "the box of an empty mask is in the middle"
    assert {area.inner for area in areas.areas} == {(128, 128)}


def test_the_default_padding_is_32_pixels() -> None:
    (area,) = around(picture(400, 400), mask(400, 400, 200, 200, 210, 210)).areas
    assert area.box == (165, 165, 245, 245)  # 10 + 2·32 = 74 pixels, rounded up to a multiple of 16


def test_resized_masks_keep_their_position() -> None:
    image, painted = picture(100, 100), mask(100, 100, 20, 30, 70, 80)
    (scaled,) = around(image, painted, padding=0, height=100, width=100).masks()
    assert scaled.all(), "the box equals the mask"
    (scaled,) = around(image, painted, padding=25, height=200, width=200).masks()
    # (20, 30, 70, 80), relative to the box's corner (0, 5), times 200 / 95
    box = Image.fromarray(scaled.astype(np.uint8)).getbbox()
    assert box == tuple(round(edge * 200 / 95) for edge in (20, 25, 70, 75))


def test_a_mask_of_another_size_is_resized_to_the_picture() -> None:
    (area,) = around(picture(128, 128), mask(32, 32, 8, 8, 16, 16), padding=0).areas
    assert area.box == (16, 16, 80, 80)
    assert Image.fromarray(area.mask.astype(np.uint8)).getbbox() == (16, 16, 48, 48)
    assert area.mask[17:47, 17:47].all()


# -- refusals --


def test_areas_that_cannot_have_one_size_are_refused() -> None:
    images = [picture(70, 300), picture(300, 300)]
    with pytest.raises(InputError, match="need a height of 168 pixels, and a picture has 70: give height and width"):
        around(images, [mask(70, 300, 5, 5, 9, 9), mask(300, 300, 100, 100, 204, 204)])
    assert around(images, mask(70, 300, 5, 5, 9, 9), height=64, width=64).working == (64, 64)


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="need a width of 64 pixels, and a picture has 40"):
        around(picture(80, 40), mask(80, 40, 1, 1, 9, 9))


# -- whole pictures --


def test_a_whole_picture_is_an_area_whose_box_is_the_picture() -> None:
    images = [read_image(picture(70, 90, 1)), read_image(picture(70, 90, 2))]
    painted = read_mask(mask(35, 45, 9, 9, 30, 30))
    areas = whole_pictures(images, [painted], height=None, width=128)
    assert areas.working == (128, 70)
    assert [area.box for area in areas.areas] == [(0, 0, 128, 70)] * 2
    crops, crop_of = areas.crops()
    assert crop_of == [0, 1]
    for crop, image in zip(crops, images, strict=True):
        np.testing.assert_array_equal(crop, fit(image, 128, 70))
    np.testing.assert_array_equal(areas.masks(), np.stack([fit_mask(painted, 128, 70)] * 2))


def test_one_picture_with_several_masks_is_cropped_once() -> None:
    image, one = read_image(picture(70, 90)), read_mask(mask(70, 90, 9, 9, 30, 30))
    other = read_mask(mask(70, 90, 60, 1, 80, 9))
    crops, crop_of = whole_pictures([image], [one, other], height=None, width=None).crops()
    assert (len(crops), crop_of) == (1, [0, 0])
    crops, crop_of = around_masks([image], [one, other, one], multiple=MULTIPLE, height=64, width=64).crops()
    assert (len(crops), crop_of) == (2, [0, 1, 0]), "a crop for each box"


def test_whole_pictures_of_several_sizes_are_refused() -> None:
    pictures = [Image.new("RGB", (64, 64)), Image.new("RGB", (80, 64))]
    with pytest.raises(InputError, match=r"several sizes \(64x64, 80x64\); give height and width"):
        whole_pictures(pictures, [Image.new("L", (8, 8))], height=64, width=None)


def test_a_size_with_too_many_pixels_is_refused_before_any_work() -> None:
    with pytest.raises(InputError, match="the result would be 1000000x1000000 pixels; expected at most 89,478,485"):
        whole_pictures([Image.new("RGB", (64, 64))], [Image.new("L", (8, 8))], height=10**6, width=10**6)
    with pytest.raises(InputError, match="the size to work at is 1000000x1000000; expected at most 89,478,485"):
        around_masks([Image.new("RGB", (64, 64))], [Image.new("L", (8, 8))], multiple=8, height=10**6, width=10**6)

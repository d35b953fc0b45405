"""Crops around masks: where they lie, that nothing is distorted, and that kept pixels come back to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.pictures.area import Areas, around_masks
from tests.runtime.fake_bundle import FACTOR, MULTIPLE, WIDTH, FakeEngine

RNG = np.random.default_rng(4)
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mask(height: int, width: int, *box: int) -> np.ndarray:
    """White in (left, top, right, bottom)."""
    array = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box or (0, 0, 0, 0)
    array[top:bottom, left:right] = 255
    return array


def around(image: Any, mask_image: Any, **options: Any) -> Areas:
    return around_masks(image, mask_image, **{"multiple": MULTIPLE, "height": None, "width": None} | options)


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
def test_every_area(case: tuple[np.ndarray, np.ndarray, dict[str, Any]]) -> None:
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
        assert abs(scales[0] - scales[1]) <= half_a_pixel + 1e-9, "one factor for both axes"
        assert area.inner[0] == options["width"] or area.inner[1] == options["height"], "as large as it fits"
    else:
        assert area.inner == areas.working == (right - left, bottom - top), "nothing is resized"
        for size, limit in zip(areas.working, (across, down), strict=True):
            assert size >= 64
            assert size % MULTIPLE == 0 or size == limit

    (crop,), (crop_mask,) = areas.crops()
    assert crop.size == crop_mask.size == areas.working
    assert set(np.unique(crop_mask)) <= {0, 255}

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
def test_the_crop_alone_put_back_is_the_picture(height: int | None, width: int | None) -> None:
    y, x = np.mgrid[:300, :240]
    smooth = np.stack([y * 255 / 299, x * 255 / 239, (x + y) / 4], axis=-1).astype(np.uint8)
    areas = around(smooth, mask(300, 240, 100, 100, 180, 200), height=height, width=width, padding=0)
    (crop,), _ = areas.crops()
    (whole,) = areas.finished(np.asarray(crop)[None] / np.float32(255), "pil", "none")
    off = np.abs(np.asarray(whole).astype(int) - smooth).max()
    assert off == 0 if height is None else off <= 2, "resized up and down again"


def test_the_picture_is_scaled_by_one_factor_and_padded_where_it_ends() -> None:
    image = picture(64, 256)
    areas = around(image, mask(64, 256, 0, 0, 256, 10), height=128, width=128)
    assert areas.areas[0].box == (0, 0, 256, 64)
    assert areas.areas[0].inner == (128, 32)
    (crop,), (crop_mask,) = areas.crops()
    pixels = np.asarray(crop)
    np.testing.assert_array_equal(pixels[32:], np.broadcast_to(pixels[31], (96, 128, 3)))
    np.testing.assert_array_equal(np.asarray(crop_mask)[:5] == 255, True)
    assert not np.asarray(crop_mask)[6:].any()


def test_boxes_at_the_edges_lie_inside() -> None:
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
    assert areas.areas[2].box == (86, 36, 214, 164), "an empty mask's lies in the middle"
    assert {area.inner for area in areas.areas} == {(128, 128)}


def test_default_padding() -> None:
    (area,) = around(picture(400, 400), mask(400, 400, 200, 200, 210, 210)).areas
    assert area.box == (165, 165, 245, 245)  # 10 + 2·32 = 74 pixels, up to a multiple of 16


def test_resized_masks_keep_their_place() -> None:
    image, painted = picture(100, 100), mask(100, 100, 20, 30, 70, 80)
    _, (scaled,) = around(image, painted, padding=0, height=100, width=100).crops()
    assert np.asarray(scaled).all(), "the box is the mask"
    _, (scaled,) = around(image, painted, padding=25, height=200, width=200).crops()
    # (20, 30, 70, 80), seen from the box's corner (0, 5), times 200 / 95
    assert scaled.getbbox() == tuple(round(edge * 200 / 95) for edge in (20, 25, 70, 75))


def test_a_mask_of_another_size_and_inverted() -> None:
    (area,) = around(picture(128, 128), 255 - mask(32, 32, 8, 8, 16, 16), invert_mask=True, padding=0).areas
    assert area.box == (16, 16, 80, 80)
    assert Image.fromarray(area.mask.astype(np.uint8)).getbbox() == (16, 16, 48, 48)
    assert area.mask[17:47, 17:47].all()


# -- what it refuses --


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"height": 64}, UsageError, "height is 64 and width is None; with inpaint_area 'mask' give both"),
        ({"width": 64}, UsageError, "height is None and width is 64; with inpaint_area 'mask' give both"),
        ({"height": 63, "width": 64}, UsageError, "height is 63; expected a whole number of at least 64"),
        ({"padding": -1}, UsageError, "padding_mask_crop is -1; expected a whole number from 0"),
        ({"padding": 1.5}, UsageError, "padding_mask_crop is 1.5; expected a whole number"),
        ({"invert_mask": 1}, UsageError, "invert_mask is 1; expected True or False"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        around(picture(80, 80), mask(80, 80, 1, 1, 9, 9), **options)


def test_areas_that_cannot_have_one_size() -> None:
    images = [picture(70, 300), picture(300, 300)]
    with pytest.raises(InputError, match="need a height of 168 pixels, and a picture has 70: give height and width"):
        around(images, [mask(70, 300, 5, 5, 9, 9), mask(300, 300, 100, 100, 204, 204)])
    assert around(images, mask(70, 300, 5, 5, 9, 9), height=64, width=64).working == (64, 64)


def test_a_picture_that_is_too_small() -> None:
    with pytest.raises(InputError, match="need a width of 64 pixels, and a picture has 40"):
        around(picture(80, 40), mask(80, 40, 1, 1, 9, 9))


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="got 2 image, 3 mask_image; expected one for all or one for each of 3"):
        around([picture(64, 64)] * 2, [mask(64, 64, 1, 1, 9, 9)] * 3)


# -- in the pipeline --


def sound(**changes: Any) -> dict[str, Any]:
    return {
        "image": picture(160, 240),
        "mask_image": mask(160, 240, 150, 20, 190, 70),
        "image_embeds": EMBEDS,
        "negative_image_embeds": NEGATIVE,
        "num_inference_steps": 2,
        "seed": 5,
        "inpaint_area": "mask",
    } | changes


def test_the_work_is_that_of_the_crop_given_as_a_picture(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine]
) -> None:
    options = sound(output_type="np")
    (area,) = around(options["image"], options["mask_image"]).areas
    left, top, right, bottom = area.box
    whole = pipeline(**options).images
    assert fake_engine.runs[0][1]["image"].shape[2:] == (bottom - top, right - left)
    assert whole.shape == (1, 160, 240, 3)
    crop = {name: options[name][top:bottom, left:right] for name in ("image", "mask_image")}
    alone = pipeline(**options | crop | {"inpaint_area": "picture"}).images
    np.testing.assert_array_equal(whole[:, top:bottom, left:right], alone)
    whole[:, top:bottom, left:right] = options["image"][top:bottom, left:right] / np.float32(255)
    np.testing.assert_array_equal(whole[0], options["image"] / np.float32(255))


@pytest.mark.parametrize("size", [{}, {"height": 96, "width": 80}])
def test_kept_pixels_are_kept_and_painted_ones_change(pipeline: InpaintPipeline, size: dict[str, int]) -> None:
    options = sound(num_images_per_prompt=2, **size)
    first, second = (np.asarray(image) for image in pipeline(**options).images)
    kept = options["mask_image"] == 0
    for result in (first, second):
        np.testing.assert_array_equal(result[kept], options["image"][kept])
        assert (result[~kept] != options["image"][~kept]).any(axis=-1).mean() > 0.9
    assert (first != second).any()


def test_a_sample_is_the_same_alone_and_in_a_batch(pipeline: InpaintPipeline) -> None:
    images = [picture(160, 240, 1), picture(200, 120, 2)]
    masks = [mask(160, 240, 150, 20, 190, 70), mask(200, 120, 0, 190, 30, 200)]
    size = {"height": 96, "width": 96}
    together = pipeline(**sound(image=images, mask_image=masks, num_images_per_prompt=2, seed=[3, 4, 5, 6], **size))
    assert [image.size for image in together.images] == [(240, 160)] * 2 + [(120, 200)] * 2
    for index, seed in enumerate((3, 4, 5, 6)):
        alone = pipeline(**sound(image=images[index // 2], mask_image=masks[index // 2], seed=seed, **size))
        np.testing.assert_array_equal(together.images[index], alone.images[0])


def test_empty_masks(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    options = sound(mask_image=mask(160, 240), num_images_per_prompt=2)
    for composite in ("paste", "none"):
        output = pipeline(**options, composite=composite)
        for image in output.images:
            np.testing.assert_array_equal(image, options["image"])
        assert output.notes == ("the mask has nothing to repaint: the picture is returned as it is",)
    np.testing.assert_array_equal(np.rint(pipeline(**options, output_type="np").images[1] * 255), options["image"])
    assert not fake_engine.loaded
    output = pipeline(**sound(mask_image=[mask(160, 240), sound()["mask_image"]]))
    np.testing.assert_array_equal(output.images[0], options["image"])
    assert output.notes == ("the mask of result 1 of 2 has nothing to repaint",)


def test_latents_are_the_crops(pipeline: InpaintPipeline) -> None:
    latents = pipeline(**sound(output_type="latent", height=96, width=80)).images
    assert latents.shape[2:] == (96 // FACTOR, 80 // FACTOR)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"inpaint_area": "face"}, "inpaint_area is 'face'; choose from picture, mask"),
        ({"inpaint_area": "picture", "padding_mask_crop": 8}, "padding_mask_crop is for inpaint_area 'mask' only"),
        (
            {"image": [picture(64, 64), picture(64, 80)], "output_type": "np"},
            r'the pictures have several sizes \(64x64, 80x64\), which make no one array: ask for "pil"',
        ),
        ({"height": 10**6, "width": 10**6}, "the size to work at is 1000000x1000000; expected at most 89,478,485"),
    ],
)
def test_bad_options(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        pipeline(**sound(**changes))
    assert not fake_engine.loaded


def test_nothing_that_came_in_is_modified(pipeline: InpaintPipeline, tmp_path: Path) -> None:
    image = Image.fromarray(picture(160, 240))
    options = sound(image=image, height=96, width=80)
    before = np.asarray(image).copy()
    pipeline(**options)
    np.testing.assert_array_equal(image, before)

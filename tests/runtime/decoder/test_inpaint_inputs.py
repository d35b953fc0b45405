"""A caller's inputs become one request, or a sentence that says what is wrong, before any graph runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.inpaint_inputs import InpaintRequest, prepare_inpaint
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.limits import MAX_SEED
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, FACTOR, MULTIPLE, WIDTH

RNG = np.random.default_rng(0)
GEOMETRY = Geometry.of(fake_bundle.manifest())
EMBEDS, NEGATIVE = RNG.standard_normal((1, WIDTH), np.float32), RNG.standard_normal((1, WIDTH), np.float32)


def picture(height: int = 64, width: int = 80) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def mask(height: int = 64, width: int = 80) -> np.ndarray:
    """The middle is repainted."""
    array = np.zeros((height, width), np.uint8)
    array[height // 4 : -height // 4, width // 4 : -width // 4] = 255
    return array


SOUND: dict[str, Any] = {
    "image": picture(),
    "mask_image": mask(),
    "image_embeds": EMBEDS,
    "negative_image_embeds": NEGATIVE,
    "height": None,
    "width": None,
    "guidance_scale": 4.0,
    "num_images_per_prompt": 1,
    "seed": 0,
    "latents": None,
    "invert_mask": False,
}


def request(**changes: Any) -> InpaintRequest:
    return prepare_inpaint(GEOMETRY, InpaintOptions(**{**SOUND, **changes}))


def refusal(**changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        request(**changes)
    return str(caught.value)


def test_sound() -> None:
    made = request()
    assert (made.batch, made.height, made.width) == (1, 64, 80)
    assert made.pixels.shape == (1, 3, 64, 80)
    assert made.latent_shape == (1, CHANNELS, 8, 10)
    assert made.keep.shape == (1, 1, 8, 10)
    assert made.seeds == (0,)
    assert made.negative_image_embeds.shape == (1, WIDTH)
    assert not made.keeps_everything
    assert made.notes == ()


def test_everything_is_float32() -> None:
    made = request(
        image=picture() / 255,
        mask_image=mask().astype(np.float64) / 255,
        image_embeds=EMBEDS.astype(np.float64),
        negative_image_embeds=NEGATIVE.astype(np.float16),
        latents=np.zeros((1, CHANNELS, 8, 10)),
    )
    arrays = [value for value in vars(made).values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 6
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_nothing_that_came_in_is_modified_or_kept() -> None:
    arrays = {
        "image": picture(),
        "mask_image": mask() / np.float32(255),
        "image_embeds": EMBEDS.copy(),
        "negative_image_embeds": NEGATIVE.copy(),
        "latents": RNG.standard_normal((1, CHANNELS, 8, 10), np.float32),
    }
    before = {name: array.copy() for name, array in arrays.items()}
    made = request(**arrays, invert_mask=True)
    for value in vars(made).values():
        if isinstance(value, np.ndarray):
            value[...] = 7
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name], name)


@settings(deadline=None, max_examples=60)
@given(st.integers(64, 200), st.integers(64, 200))
def test_any_size_is_padded_to_the_grid(height: int, width: int) -> None:
    made = request(image=picture(height, width), mask_image=mask(height, width))
    assert (made.height, made.width) == (height, width)
    _, _, padded_height, padded_width = made.pixels.shape
    assert 0 <= padded_height - height < MULTIPLE
    assert 0 <= padded_width - width < MULTIPLE
    assert padded_height % MULTIPLE == padded_width % MULTIPLE == 0
    assert made.latent_shape[2:] == made.keep.shape[2:] == (padded_height // FACTOR, padded_width // FACTOR)


def test_padding_repeats_the_edge() -> None:
    half = np.zeros((65, 130), np.uint8)
    half[:, 40:] = 255
    made = request(image=picture(65, 130), mask_image=half)
    assert made.pixels.shape == (1, 3, 80, 144)
    np.testing.assert_array_equal(made.pixels[:, :, 65:], np.repeat(made.pixels[:, :, 64:65], 15, axis=2))
    assert made.keep[0, 0, :, :4].all()
    assert not made.keep[0, 0, :, 4:].any()


def test_picture_and_mask_of_other_sizes_are_fitted() -> None:
    made = request(image=picture(100, 50), mask_image=mask(33, 44), height=96, width=64)
    assert made.areas.areas[0].picture.size == (64, 96)
    assert made.masks.shape == (1, 96, 64)
    assert request(image=picture(100, 150), mask_image=mask(33, 44)).masks.shape == (1, 100, 150)


def test_height_and_width_are_not_swapped() -> None:
    made = request(height=64, width=128)
    assert (made.height, made.width) == (64, 128)
    assert made.areas.areas[0].picture.size == (128, 64)
    made = request(height=np.int64(96))
    assert (made.height, made.width) == (96, 80)


def test_files_arrays_and_pillow_images(tmp_path: Path) -> None:
    array, path = picture(), tmp_path / "a.png"
    Image.fromarray(array).save(path)
    made = request(image=[array, path, str(path), Image.fromarray(array)], image_embeds=EMBEDS)
    assert made.batch == 4
    for pixels in made.pixels[1:]:
        np.testing.assert_array_equal(pixels, made.pixels[0])


def test_each_sample_has_its_own() -> None:
    pictures, masks = [picture(), picture()], [mask(), mask()[::-1].copy()]
    masks[1][:20] = 255
    embeds = RNG.standard_normal((2, WIDTH), np.float32)
    made = request(
        image=pictures, mask_image=masks, image_embeds=embeds, num_images_per_prompt=2, seed=[5, 3, np.int64(2), 9]
    )
    assert made.batch == 4
    assert made.picture_of == (0, 0, 1, 1)
    assert [np.asarray(item).tolist() for item in made.untouched("pil")] == [pictures[i].tolist() for i in (0, 0, 1, 1)]
    assert len(made.pixels) == 2, "a picture is encoded once"
    np.testing.assert_array_equal(made.image_embeds, embeds[[0, 0, 1, 1]])
    np.testing.assert_array_equal(made.negative_image_embeds, NEGATIVE[[0, 0, 0, 0]])
    np.testing.assert_array_equal(made.masks, np.stack([masks[i] for i in (0, 0, 1, 1)]) / 255)
    assert made.seeds == (5, 3, 2, 9)


def test_one_seed_has_successors() -> None:
    assert request(num_images_per_prompt=3, seed=np.uint8(7)).seeds == (7, 8, 9)
    assert request(num_images_per_prompt=3, seed=np.array([1, 1, 4])).seeds == (1, 1, 4)
    assert request(num_images_per_prompt=2, seed=MAX_SEED - 1).seeds == (MAX_SEED - 1, MAX_SEED)


def test_drawn_seeds_differ() -> None:
    assert len({request(seed=None).seeds for _ in range(5)}) > 1


def test_without_guidance_negatives_are_not_needed() -> None:
    for scale in (0, 0.5, 1, np.float32(1)):
        made = request(guidance_scale=scale, negative_image_embeds=None)
        assert made.negative_image_embeds.shape == (0, WIDTH)


def test_invert_mask() -> None:
    np.testing.assert_array_equal(request(invert_mask=True).masks, 1 - request().masks)


def test_one_mask_of_the_stored_size_lies_on_every_picture(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(picture()).save(tmp_path / "turned.jpg", exif=tags)
    made = request(image=[tmp_path / "turned.jpg", picture(80, 64)], mask_image=[mask(), mask(80, 64)])
    np.testing.assert_array_equal(made.masks[0], np.rot90(mask() / 255, -1))
    assert [note for note in made.notes if "turned.jpg was turned upright by its EXIF orientation 6" in note]
    made = request(image=[tmp_path / "turned.jpg", picture()], mask_image=mask(), height=64, width=64)
    assert len(made.masks) == 2


def test_stretching_is_noted_with_both_sizes() -> None:
    made = request(image=picture(90, 160), mask_image=mask(64, 64), height=96, width=96)
    assert made.notes == (
        "the mask is 64x64 and image 160x90: the mask is stretched to the picture",
        "the picture is 160x90 and the result 96x96: the picture is stretched",
    )
    assert request(image=picture(90, 160), mask_image=mask(45, 80), height=180, width=320).notes == ()


@pytest.mark.parametrize("area", ["picture", "mask"])
def test_expanded_pictures(area: str) -> None:
    made = request(mask_image=None, expand=(16, 0, 64, 8), inpaint_area=area)
    assert made.areas.areas[0].picture.size == (160, 72)
    assert made.understood == ("mask: what was added to the picture is repainted; 0.556 of the picture",)
    both = request(expand=[16, 0, 64, 8])
    assert both.masks[0].sum() == mask().sum() / 255 + 160 * 72 - 80 * 64
    np.testing.assert_array_equal(both.masks[0, :64, 16:96], mask() / 255)
    inverted = request(expand=[16, 0, 64, 8], invert_mask=True)
    np.testing.assert_array_equal(inverted.masks[0, :64, 16:96], 1 - mask() / 255)
    assert inverted.masks[0, :, 96:].all(), "what was added is repainted all the same"
    assert request(image=[picture(), picture(80, 64)], expand=(0, 0, 64, 0), height=64, width=64).batch == 2


def test_what_was_understood_of_the_masks_is_known() -> None:
    hole = np.dstack([picture(), 255 - mask()])
    made = request(mask_image=[mask(), Image.fromarray(hole)], num_images_per_prompt=2)
    np.testing.assert_array_equal(made.masks[0], made.masks[2])
    assert [report.rule for report in made.reports] == ["white", "white", "alpha", "alpha"]
    assert {report.repainted for report in made.reports} == {0.25}
    assert made.understood == (
        "mask: white is repainted; 0.25 of the picture",
        "mask: what is transparent is repainted; 0.25 of the picture",
    )
    np.testing.assert_array_equal(request(mask_image=mask(), mask_mode="black").masks, 1 - made.masks[:1])
    (inverted,) = request(invert_mask=True).understood
    assert inverted == "mask: white is repainted, inverted; 0.75 of the picture"


def test_note_on_a_mask_that_keeps_everything() -> None:
    made = request(mask_image=np.zeros((64, 80), np.uint8))
    assert made.keeps_everything
    assert made.notes == (
        "the mask has nothing to repaint, its largest value is 0 of 255: the picture is returned as it is",
    )


def test_the_note_names_the_largest_value_of_a_mask_that_marks_nothing() -> None:
    (note,) = request(mask_image=np.minimum(mask(), 100)).notes
    assert "its largest value is 100 of 255" in note


def test_a_file_of_zero_and_one_is_repainted_where_it_is_one(tmp_path: Path) -> None:
    Image.fromarray(mask() // 255).save(tmp_path / "m.png")
    made = request(mask_image=tmp_path / "m.png")
    np.testing.assert_array_equal(made.masks, request().masks)
    (note,) = made.notes
    assert note.endswith("m.png has no value above 1: its values are taken as 0 and 1, and 1 as white")


def test_notes_on_single_masks() -> None:
    black, dot = np.zeros((64, 80), np.uint8), np.zeros((64, 80), np.uint8)
    dot[9, 9] = 255
    made = request(mask_image=[black, mask(), dot, black])
    assert not made.keeps_everything
    assert made.notes == (
        "the mask of results 1, 4 of 4 has nothing to repaint: largest value 0, 0 of 255",
        "the mask of result 3 of 4 is so small that it falls between the latent cells: nothing is generated for it",
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image": []}, "image is an empty list; give at least one"),
        ({"mask_image": ()}, "mask_image is an empty list; give at least one"),
        ({"image": 3}, "image is a int; expected a path, a Pillow image or an array"),
        ({"image": [picture().tolist()]}, "image is a list; expected a path, a Pillow image or an array"),
        ({"image": "nowhere.png"}, "image nowhere.png does not exist"),
        ({"mask_image": np.full((64, 80), np.nan)}, "float masks must be in [0, 1]"),
        ({"image": picture(63, 80)}, "the picture is 80x63 pixels; results have at least 64x64: give height and width"),
        ({"image": picture(63, 80), "width": 64}, "the picture is 80x63 pixels; results have at least 64x64"),
        ({"height": 63}, "height is 63; expected a whole number of at least 64"),
        ({"width": 0}, "width is 0; expected a whole number of at least 64"),
        ({"width": 64.0}, "width is 64.0; expected a whole number of at least 64"),
        ({"height": True}, "height is True; expected a whole number of at least 64"),
        ({"height": "64"}, "height is '64'; expected a whole number of at least 64"),
        ({"height": 10**6, "width": 10**6}, "the result would be 1000000x1000000 pixels; expected at most 89,478,485"),
        ({"image": [picture(), picture(70)]}, "the pictures have several sizes (80x64, 80x70); give height and width"),
        ({"image": [picture(), picture(70)], "width": 64}, "several sizes"),
        ({"image_embeds": None}, "there is no prompt and no image_embeds; give one of them"),
        ({"image_embeds": np.zeros(5)}, "image_embeds: the width is 5; this bundle takes 6"),
        ({"negative_image_embeds": np.zeros((1, 7))}, "negative_image_embeds: the width is 7; this bundle takes 6"),
        (
            {"negative_image_embeds": None},
            "guidance_scale is 4, which needs negative_image_embeds: give them, or a guidance_scale of 1",
        ),
        ({"guidance_scale": "4"}, "guidance_scale is '4'; expected a number of at least 0 and up to 1000"),
        (
            {"image": [picture()] * 2, "image_embeds": np.zeros((3, WIDTH))},
            "2 image, 1 mask_image, 3 image_embeds, 1 negative_image_embeds; expected one for all or one for each of 3",
        ),
        (
            {"negative_image_embeds": np.zeros((2, WIDTH))},
            "1 image, 1 mask_image, 1 image_embeds, 2 negative_image_embeds; expected one for all or one for each of 1",
        ),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0; expected a whole number from 1 to 1024"),
        ({"num_images_per_prompt": 10**12}, "num_images_per_prompt is 1000000000000; expected a whole number from 1"),
        ({"num_images_per_prompt": 1.0}, "num_images_per_prompt is 1.0; expected a whole number"),
        (
            {"num_images_per_prompt": 1024, "image_embeds": np.zeros((2, WIDTH))},
            "the number of results is 2048; expected a whole number from 1 to 1024",
        ),
        ({"seed": -1}, "seed is -1; expected a whole number from 0 to 18446744073709551615"),
        ({"seed": 2**64}, "seed is 18446744073709551616; expected a whole number from 0 to 18446744073709551615"),
        ({"seed": 1.5}, "seed is 1.5; expected a whole number"),
        ({"seed": "1"}, "seed is '1'; expected a whole number"),
        ({"seed": True}, "seed is True; expected a whole number"),
        ({"seed": []}, "got 0 seeds for 1 results; expected one, or one for each result"),
        ({"seed": [1, 2]}, "got 2 seeds for 1 results; expected one, or one for each result"),
        ({"seed": [None]}, "seed is None; expected a whole number"),
        ({"seed": np.array([1.5])}, "seed is 1.5; expected a whole number"),
        ({"latents": np.zeros((1, 4, 8, 8))}, "latents: the shape is (1, 4, 8, 8); this run takes (1, 4, 8, 10)"),
        ({"latents": np.zeros((2, 4, 8, 10))}, "latents: the shape is (2, 4, 8, 10); this run takes (1, 4, 8, 10)"),
        ({"latents": np.full((1, 4, 8, 10), np.inf)}, "latents: has NaN, infinity or numbers too large"),
        ({"invert_mask": "no"}, "invert_mask is 'no'; expected True or False"),
        ({"latents": "noise"}, "latents: got str of dtype <U5; expected real numbers"),
    ],
)
def test_what_is_wrong(changes: dict[str, Any], text: str) -> None:
    assert text in refusal(**changes)

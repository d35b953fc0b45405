"""Inpainting a crop around the mask: it is the crop given as a picture, and the rest comes back as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.pictures.area import around_masks
from kandinsky_runtime.pictures.image import read_image
from kandinsky_runtime.pictures.mask import read_mask
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
    (area,) = around_masks(
        [read_image(options["image"])], [read_mask(options["mask_image"])], multiple=MULTIPLE, height=None, width=None
    ).areas
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
        assert output.notes[:1] == (
            "the mask has nothing to repaint, its largest value is 0 of 255: the picture is returned as it is",
        )
    np.testing.assert_array_equal(np.rint(pipeline(**options, output_type="np").images[1] * 255), options["image"])
    assert not fake_engine.loaded
    output = pipeline(**sound(mask_image=[mask(160, 240), sound()["mask_image"]]))
    np.testing.assert_array_equal(output.images[0], options["image"])
    assert output.notes[:1] == ("the mask of result 1 of 2 has nothing to repaint: largest value 0 of 255",)


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
            r'the pictures have several sizes \(64x64, 80x64\); output_type "np" needs one size: use "pil"',
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


# -- masks of separate parts --


def two_spots() -> tuple[np.ndarray, np.ndarray]:
    return mask(160, 600, 20, 20, 40, 45), mask(160, 600, 500, 90, 530, 130)


@pytest.mark.parametrize("size", [{}, {"height": 96, "width": 80}])
@pytest.mark.parametrize("output_type", ["pil", "np"])
@pytest.mark.parametrize("composite", [{}, {"composite": "none"}, {"mask_blur": 3}])
def test_separate_parts_are_the_runs_of_each(
    pipeline: InpaintPipeline, size: dict[str, int], output_type: str, composite: dict[str, Any]
) -> None:
    one, other = two_spots()
    options = sound(image=picture(160, 600), output_type=output_type, num_images_per_prompt=2, **size, **composite)
    together = pipeline(**options | {"mask_image": one + other})
    first = pipeline(**options | {"mask_image": one}).images
    if output_type == "pil":
        for index, image in enumerate(first):
            second = pipeline(
                **options | {"image": image, "mask_image": other, "num_images_per_prompt": 1, "seed": 5 + index}
            ).images[0]
            np.testing.assert_array_equal(together.images[index], second)
    else:
        second = pipeline(**options | {"mask_image": other}).images
        changed = second != options["image"] / np.float32(255)
        np.testing.assert_array_equal(together.images, np.where(changed, second, first))
    assert "the mask has 2 separate parts: each is worked on by itself" in together.notes
    assert together.masks[0].repainted == pytest.approx((one + other > 0).mean())
    assert together.seeds == (5, 6)


def test_the_cost_follows_the_mask(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    pipeline(**sound(image=picture(160, 600), mask_image=sum(two_spots())))
    pixels = [
        feeds["image"].shape[2] * feeds["image"].shape[3] for name, feeds in fake_engine.runs if "encoder" in name
    ]
    assert len(pixels) == 2
    assert sum(pixels) < 160 * 600 / 3


def test_drawn_seeds_are_those_of_every_part(pipeline: InpaintPipeline) -> None:
    options = sound(image=picture(160, 600), mask_image=sum(two_spots()))
    drawn = pipeline(**options | {"seed": None})
    again = pipeline(**options | {"seed": list(drawn.seeds)})
    np.testing.assert_array_equal(drawn.images[0], again.images[0])


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        (lambda options, folder: {"image": [options["image"]] * 2}, "2 of 2 masks have"),
        (lambda options, folder: {"mask_image": [options["mask_image"], two_spots()[0]]}, "1 of 2 masks has"),
        (lambda options, folder: {"record_noise": folder / "n.npz"}, "1 of 1 masks has"),
        (lambda options, folder: {"output_type": "latent"}, "1 of 1 masks has"),
        (lambda options, folder: {"mask_image": [two_spots()[0], two_spots()[1]]}, None),
    ],
)
@pytest.mark.parametrize("size", [{}, {"height": 96, "width": 80}])
def test_a_batch_and_noise_of_the_callers_have_one_area_and_say_so(
    pipeline: InpaintPipeline, tmp_path: Path, size: dict[str, int], change: Any, shared: str | None
) -> None:
    options = sound(image=picture(160, 600), mask_image=sum(two_spots()), **size)
    notes = pipeline(**options | change(options, tmp_path)).notes
    found = [note for note in notes if "separate parts" in note]
    assert [note.split(" separate parts, which share one area")[0] for note in found] == [shared] * (shared is not None)

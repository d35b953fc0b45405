"""CLIP's picture preprocessing: transformers' pixel values for pictures of all kinds, and invalid settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from kandinsky_runtime.errors import BundleError, InputError
from kandinsky_runtime.prior.clip_image import DEFAULTS, ClipImageProcessor
from scripts.goldens import clip_images as golden
from tests.golden import GOLDEN
from tests.tolerances import CLIP_PIXELS

PUBLISHED = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
CLIP = ClipImageProcessor.from_config({})
SMALL = ClipImageProcessor.from_config(golden.SMALL)


def solid(colour: Any, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (50, 40), colour)


def colours(values: np.ndarray) -> np.ndarray:
    """Pixel values scaled back to [0, 1], (B, S, S, 3)."""
    return (values.transpose(0, 2, 3, 1) * CLIP.std + CLIP.mean).astype(np.float32)


@pytest.mark.parametrize("name", golden.cases())
def test_pixel_values_equal_those_of_transformers(name: str) -> None:
    if name == "RGB 200x41" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("Pillow before 13 scales the columns of tall pictures after their rows, and rounds between")
    config, picture = golden.cases()[name]
    values = ClipImageProcessor.from_config(config)([picture])
    with np.load(GOLDEN / "clip_images.npz") as arrays:
        want = arrays[name]
    assert values.dtype == np.float32
    assert values.shape == (1, *want.shape)
    np.testing.assert_allclose(values[0], want, rtol=0, atol=CLIP_PIXELS, err_msg="remake with scripts/regen_goldens")


def test_the_published_config_is_the_default() -> None:
    assert ClipImageProcessor.from_config(PUBLISHED) == CLIP
    assert ClipImageProcessor.from_config({**PUBLISHED, "size": 224, "crop_size": 224}) == CLIP
    assert ClipImageProcessor.from_config({"do_pad": None, "size": None}) == CLIP
    assert CLIP.crop == DEFAULTS["crop_size"]["height"]


def test_a_picture_has_the_same_values_alone_and_in_a_batch() -> None:
    pictures = [golden.picture("RGB", height, width) for height, width in golden.SIZES]
    batch = SMALL(pictures)
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch, np.concatenate([SMALL([picture]) for picture in pictures]))


def test_transparent_pictures_are_put_on_white() -> None:
    values = colours(SMALL([solid((255, 0, 0, 0), "RGBA"), solid((255, 0, 0, 51), "RGBA"), solid((0, 0), "LA")]))
    np.testing.assert_allclose(values[0], 1, atol=CLIP_PIXELS)
    np.testing.assert_allclose(values[1], np.broadcast_to([1, 0.8, 0.8], values[1].shape), atol=CLIP_PIXELS)
    np.testing.assert_allclose(values[2], 1, atol=CLIP_PIXELS)


def test_sixteen_bits_are_scaled() -> None:
    """transformers clips them: a 16-bit picture is white there."""
    deep = Image.fromarray(np.full((40, 50), 257 * 100, np.uint16))
    np.testing.assert_array_equal(SMALL([deep]), SMALL([solid((100, 100, 100))]))


def test_arrays_and_files_give_the_same_values(tmp_path: Path) -> None:
    picture = golden.picture("RGB", 45, 38)
    picture.save(tmp_path / "picture.png")
    want = SMALL([picture])
    for source in (np.asarray(picture), tmp_path / "picture.png", (tmp_path / "picture.png").read_bytes()):
        np.testing.assert_array_equal(SMALL([source]), want)


def test_the_picture_is_not_changed() -> None:
    picture = golden.picture("RGBA", 45, 38)
    before = picture.tobytes()
    SMALL([picture])
    assert picture.tobytes() == before
    assert picture.mode == "RGBA"


def test_a_line_of_pixels_is_scaled_up_to_a_limit() -> None:
    assert SMALL([solid((1, 2, 3)).resize((1, 2000))]).shape == (1, 3, 32, 32)
    with pytest.raises(
        InputError,
        match=r"is 1x90000 pixels and would be scaled to 224x20160000; expected at most 89,478,485 .* crop it",
    ):
        CLIP([Image.new("RGB", (1, 90_000))])


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "expected a list of one or more"),
        ("picture.png", "expected a list of one or more"),
        (None, "expected a list of one or more"),
        ([3], "image is a int; expected a path"),
        (["no such file.png"], "image no such file.png does not exist"),
        ([np.zeros((0, 4, 3), np.uint8)], "array of shape"),
    ],
)
def test_invalid_pictures_are_refused(pictures: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SMALL(pictures)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_resize": False}, "`do_resize` is False; expected True"),
        ({"do_center_crop": False}, "`do_center_crop` is False"),
        ({"do_pad": True}, "`do_pad` is True; expected False"),
        ({"image_processor_type": "ViTImageProcessor"}, "`image_processor_type` is 'ViTImageProcessor'"),
        ({"sharpen": 2}, "`sharpen` is unknown"),
        ({"size": {"height": 224, "width": 224}}, "`size` is .*; expected a number of pixels or an object"),
        ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "`size` is "),
        ({"size": 0}, "`size` is 0"),
        ({"size": 224.0}, "`size` is 224.0"),
        ({"crop_size": {"height": 224, "width": 200}}, "`crop_size` is .*equal height and width"),
        ({"crop_size": {}}, "`crop_size` is "),
        ({"crop_size": 225}, "`crop_size` is 225, more than the 224 of `size`"),
        ({"resample": 9}, "`resample` is 9"),
        ({"resample": "bicubic"}, "`resample` is 'bicubic'"),
        ({"rescale_factor": 0}, "`rescale_factor` is 0; expected a positive number"),
        ({"image_mean": [0.5, 0.5]}, "`image_mean` is .*; expected three numbers"),
        ({"image_mean": 0.5}, "`image_mean` is 0.5"),
        ({"image_std": [0.5, 0.5, 0]}, "`image_std` is .*; expected three positive numbers"),
        ({"image_std": [1, 1, float("nan")]}, "`image_std` is "),
    ],
)
def test_invalid_settings_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        ClipImageProcessor.from_config(config)


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(BundleError) as caught:
        ClipImageProcessor.from_config({"do_resize": False, "sharpen": 2, "resample": -1})
    assert len(caught.value.faults) == 3

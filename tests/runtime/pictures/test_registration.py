"""A mask lies on its picture, whichever way both were stored; Pillow's own turning is the oracle."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from kandinsky_runtime.pictures.image import read_picture
from kandinsky_runtime.pictures.mask import understand_mask
from kandinsky_runtime.pictures.registration import registered, stretching
from kandinsky_runtime.pictures.sizes import same_proportions

STORED = np.random.default_rng(5).integers(0, 256, (48, 80, 3), np.uint8)
MARK = np.zeros((48, 80), np.uint8)
MARK[5:15, 8:30] = 255


def file(array: np.ndarray, orientation: int = 1, size: tuple[int, int] | None = None) -> bytes:
    buffer, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = orientation
    image = Image.fromarray(array)
    (image if size is None else image.resize(size, Image.Resampling.NEAREST)).save(buffer, "PNG", exif=tags)
    return buffer.getvalue()


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file(array, orientation)))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_marks_the_same_pixels_of_every_picture(orientation: int) -> None:
    picture, wanted = read_picture(file(STORED, orientation)), upright(MARK, orientation)
    turned_aside = orientation >= 5
    sources = {  # mask → does it lie on the picture, and is there a note
        "an upright file": (file(wanted), True, 2 <= orientation <= 4),
        "a file with the same orientation": (file(MARK, orientation), True, False),
        "an upright array": (wanted, True, 2 <= orientation <= 4),
    }
    if turned_aside:
        sources["a file of the stored size"] = (file(MARK), True, True)
        sources["an array of the stored size"] = (MARK, True, True)
        sources["a Pillow image of the stored size"] = (Image.fromarray(MARK), True, True)
    for name, (source, _, noted) in sources.items():
        mask, note = registered(understand_mask(source), picture)
        np.testing.assert_array_equal(np.asarray(mask.image.convert("L")), wanted, name)
        assert bool(note) == noted, name
    if turned_aside:
        _, note = registered(understand_mask(MARK), picture)
        assert (
            f"EXIF orientation {orientation}, and its mask with it, because the mask fits the stored size 80x48" in note
        )


def test_a_smaller_mask_of_the_stored_proportions_is_turned_too() -> None:
    picture = read_picture(file(STORED, 6))
    mask, note = registered(understand_mask(file(MARK, size=(40, 24))), picture)
    assert mask.image.size == (24, 40)
    assert "fits the stored size 80x48" in note
    mask, note = registered(understand_mask(file(MARK, size=(40, 40))), picture)
    assert (mask.image.size, note) == ((40, 40), ""), "neither proportion: nothing is guessed"


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((1600, 900), (1600, 900), True),
        ((1600, 900), (512, 512), False),
        ((1600, 900), (900, 1600), False),
        ((4000, 3000), (1333, 1000), True),
        ((1920, 1080), (1024, 576), True),
        ((1024, 576), (1024, 600), False),
    ],
)
def test_proportions(size: tuple[int, int], other: tuple[int, int], same: bool) -> None:
    assert same_proportions(size, other) == same_proportions(other, size) == same


def test_a_stretched_mask_is_noted_with_both_sizes() -> None:
    picture = read_picture(np.zeros((90, 160, 3), np.uint8))
    assert stretching(understand_mask(np.zeros((45, 80), np.uint8)), picture) == ""
    note = stretching(understand_mask(np.zeros((64, 64), np.uint8)), picture)
    assert note == "the mask is 64x64 and image 160x90: the mask is stretched to the picture"

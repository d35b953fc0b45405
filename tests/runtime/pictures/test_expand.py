"""Pictures made larger: numpy's padding and Pillow's own expansion are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures.expand import expanded, expanded_mask
from kandinsky_runtime.pictures.mask import fit_mask, read_mask

COLOURS = np.random.default_rng(24).integers(0, 256, (20, 30, 4), np.uint8)
EDGES = (5, 0, 9, 7)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_what_was_there_stays_and_edges_are_repeated(mode: str) -> None:
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.info = {"icc_profile": b"profile"}
    larger = expanded(picture, EDGES)
    assert (larger.mode, larger.size, larger.info) == (mode, (44, 27), {"icc_profile": b"profile"})
    np.testing.assert_array_equal(larger.crop((5, 0, 35, 20)), picture)
    np.testing.assert_array_equal(np.asarray(larger)[:20, :5], np.repeat(np.asarray(picture)[:, :1], 5, axis=1))
    np.testing.assert_array_equal(np.asarray(larger)[20:, 5:35], np.repeat(np.asarray(picture)[-1:], 7, axis=0))


def test_what_was_added_is_repainted() -> None:
    picture = Image.fromarray(COLOURS).convert("RGB")
    white = ImageOps.expand(Image.new("L", picture.size), EDGES, fill=255)
    np.testing.assert_array_equal(expanded_mask(None, picture, EDGES), white)
    small = np.zeros((10, 15), np.uint8)
    small[2:5, 3:9] = 255
    wanted = ImageOps.expand(
        Image.fromarray((fit_mask(read_mask(small), 30, 20) * 255).astype(np.uint8)), EDGES, fill=255
    )
    got = fit_mask(expanded_mask(read_mask(small), picture, EDGES), 44, 27)
    np.testing.assert_array_equal(got * 255, wanted)


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="the expanded picture would be 44x27 pixels; expected at most 1,000 in all"):
        expanded(Image.fromarray(COLOURS), EDGES, 1000)

"""The sizes of results: the requested size or the pictures' own, limits, and padding for the graphs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_PIXELS, MIN_SIZE
from kandinsky_runtime.pictures.sizes import padding_for, picture_size
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import MULTIPLE

GEOMETRY = Geometry.of(fake_bundle.manifest())


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_padding_reaches_the_next_multiple(height: int, width: int) -> None:
    bottom, right = padding_for(GEOMETRY, height, width)
    assert (height + bottom) % MULTIPLE == (width + right) % MULTIPLE == 0
    assert 0 <= bottom < MULTIPLE
    assert 0 <= right < MULTIPLE


def test_padding_counts_as_pixels() -> None:
    """The picture itself is within the limit; the padded picture is not."""
    height = MAX_PIXELS // 8001 // MULTIPLE * MULTIPLE
    assert height * 8001 <= MAX_PIXELS
    with pytest.raises(InputError, match=rf"the result would be 8001x{height} pixels; expected at most 89,478,485"):
        padding_for(GEOMETRY, height, 8001)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(None, None, (70, 90)), (128, None, (128, 90)), (None, 128, (70, 128)), (96, 64, (96, 64))],
)
def test_given_sides_replace_the_pictures_own(height: int | None, width: int | None, expected: tuple[int, int]) -> None:
    assert picture_size([(90, 70), (90, 70)], height, width) == expected


def test_pictures_of_several_sizes_need_both_sides() -> None:
    sizes = [(90, 70), (64, 64), (90, 70)]
    for height, width in ((None, None), (64, None), (None, 64)):
        with pytest.raises(InputError, match=r"several sizes \(64x64, 90x70\); give height and width"):
            picture_size(sizes, height, width)
    assert picture_size(sizes, 64, 80) == (64, 80)


@pytest.mark.parametrize("size", [(MIN_SIZE - 1, 200), (200, MIN_SIZE - 1)])
def test_small_pictures_need_a_size(size: tuple[int, int]) -> None:
    across, down = size
    with pytest.raises(InputError, match=rf"the picture is {across}x{down} pixels; .* at least 64x64: give height"):
        picture_size([size], None, None)
    assert picture_size([size], MIN_SIZE, MIN_SIZE) == (MIN_SIZE, MIN_SIZE)


def test_only_a_side_that_is_not_given_must_be_large_enough() -> None:
    assert picture_size([(200, 10)], 64, None) == (64, 200)
    with pytest.raises(InputError, match="the picture is 200x10 pixels"):
        picture_size([(200, 10)], None, 64)


def test_too_many_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="the result would be 100000x895 pixels; expected at most 89,478,485 in all"):
        picture_size([(64, 64)], 895, 100_000)

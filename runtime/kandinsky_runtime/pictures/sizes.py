"""The sizes of results in pixels: the requested size, the size of the pictures, and the sizes that the graphs take."""

from __future__ import annotations

from collections.abc import Sequence

from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_PIXELS, MIN_SIZE


def padding_for(geometry: Geometry, height: int, width: int, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The rows and columns to add to a picture, so that the graphs take its size.

    Raises:
        InputError: the padded picture would have too many pixels.
    """
    bottom, right = -height % geometry.multiple, -width % geometry.multiple
    _check_pixels(height, width, (height + bottom) * (width + right), max_pixels)
    return bottom, right


def picture_size(
    sizes: Sequence[tuple[int, int]], height: int | None, width: int | None, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """The height and width of the result: the given ones, or else the pictures' own.

    Args:
        sizes: the (width, height) of each picture.
        height, width: the requested size in pixels; None for the pictures' own.
        max_pixels: the most pixels of the result.

    Raises:
        InputError: the pictures' sizes differ or are too small, and no size is given; or the result would have too many
            pixels.
    """
    different = sorted(set(sizes))
    if len(different) > 1 and (height is None or width is None):
        listed = ", ".join(f"{across}x{down}" for across, down in different)
        raise InputError(f"the pictures have several sizes ({listed}); give height and width")
    own_width, own_height = different[0]
    if (height is None and own_height < MIN_SIZE) or (width is None and own_width < MIN_SIZE):
        raise InputError(
            f"the picture is {own_width}x{own_height} pixels; results have at least {MIN_SIZE}x{MIN_SIZE}: give height"
            " and width"
        )
    rows, columns = own_height if height is None else height, own_width if width is None else width
    _check_pixels(rows, columns, rows * columns, max_pixels)
    return rows, columns


def same_proportions(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same proportions, up to the rounding of sides: within 1%."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= 0.01 * size[0] * other[1]


def stretching(sizes: Sequence[tuple[int, int]], result: tuple[int, int]) -> list[str]:
    """Notes, one for each size of a picture that is stretched to the result's."""
    return [
        f"the picture is {across}x{down} and the result {result[0]}x{result[1]}: the picture is stretched"
        for across, down in dict.fromkeys(sizes)
        if not same_proportions((across, down), result)
    ]


def _check_pixels(height: int, width: int, pixels: int, most: int) -> None:
    if pixels > most:
        raise InputError(f"the result would be {width}x{height} pixels; expected at most {most:,} in all")

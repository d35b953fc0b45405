"""Boxes: which part of a picture a mask is worked on in, and at which size.

Boxes are (left, top, right, bottom) in pixels, as in Pillow. Legend: H, W height and width of a picture
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MIN_SIZE

Box = tuple[int, int, int, int]
Size = tuple[int, int]
"""(width, height), as in Pillow."""

DEFAULT_PADDING = 32  # pixels of the picture around the part to repaint


def planned_box(
    bounds: Box, picture: Size, *, multiple: int, height: int | None, width: int | None, padding: int | None
) -> Box:
    """The box of `area.around_masks` for one mask whose pixels to repaint are within `bounds`."""
    box = _with_padding(bounds, picture, padding)
    if height is None or width is None:
        return grown(box, common_size([box], [picture], multiple), picture)
    return grown(box, in_proportion(box, (width, height)), picture)


def box_around(mask: npt.NDArray[np.float32], padding: int | None) -> Box:
    """The box of a mask's (H, W) pixels to repaint with padding, inside the picture; its middle if there are none."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        rows, columns = np.array([height // 2]), np.array([width // 2])
    bounds = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return _with_padding(bounds, (width, height), padding)


def _with_padding(box: Box, picture: Size, padding: int | None) -> Box:
    left, top, right, bottom = box
    padding = DEFAULT_PADDING if padding is None else padding
    return (
        max(0, left - padding), max(0, top - padding),
        min(picture[0], right + padding), min(picture[1], bottom + padding),
    )  # fmt: skip


def common_size(boxes: Sequence[Box], pictures: Sequence[Size], multiple: int) -> Size:
    """The size to which every box grows if boxes are not resized.

    Raises:
        InputError: a picture is smaller than that.
    """
    sizes = []
    for name, axis in (("width", 0), ("height", 1)):
        needed = max(MIN_SIZE, *(box[axis + 2] - box[axis] for box in boxes))
        least = min(picture[axis] for picture in pictures)
        if least < needed:
            raise InputError(
                f"the areas around the masks need a {name} of {needed} pixels, and a picture has {least}: give height"
                " and width, the size to work at"
            )
        sizes.append(min(least, -(-needed // multiple) * multiple))
    return sizes[0], sizes[1]


def in_proportion(box: Box, working: Size) -> Size:
    """The smallest size that holds a box and has the proportions of the working picture."""
    left, top, right, bottom = box
    across, down = right - left, bottom - top
    return max(across, -(-down * working[0] // working[1])), max(down, -(-across * working[1] // working[0]))


def grown(box: Box, size: Size, picture: Size) -> Box:
    """`box` grown around its middle to `size`, moved and limited to stay within the picture."""
    edges = []
    for axis in (0, 1):
        length = min(size[axis], picture[axis])
        start = min(max(0, (box[axis] + box[axis + 2] - length) // 2), picture[axis] - length)
        edges.append((start, start + length))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def fitted_size(box: Box, working: Size) -> Size:
    """The largest size of a box in the working picture, scaled by one factor for both axes."""
    sizes = [box[2] - box[0], box[3] - box[1]]
    scale = min(room / size for room, size in zip(working, sizes, strict=True))
    across, down = (max(1, min(room, round(size * scale))) for room, size in zip(working, sizes, strict=True))
    return across, down

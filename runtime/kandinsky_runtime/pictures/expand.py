"""Pictures are made larger, so that what is added can be painted (outpainting).

Edges are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_PIXELS

Edges = tuple[int, int, int, int]


def expanded(picture: Image.Image, edges: Edges, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture with more pixels at its edges, which repeat its outermost ones; the profile stays.

    Raises:
        InputError: the picture would have too many pixels.
    """
    left, top, right, bottom = edges
    width, height = picture.width + left + right, picture.height + top + bottom
    if width * height > max_pixels:
        raise InputError(
            f"the expanded picture would be {width}x{height} pixels; expected at most {max_pixels:,} in all"
        )
    pixels = np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="edge")
    larger = Image.fromarray(pixels)
    larger.info = dict(picture.info)
    return larger


def expanded_mask(mask: Image.Image | None, picture: Image.Image, edges: Edges) -> Image.Image:
    """The mask of an expanded picture: what was added is repainted, and what the mask repaints, if there is one.

    Args:
        mask: the picture of a `Mask`; resized to the picture as in `fit_mask`.
        picture: the picture before it was expanded.
        edges: the pixels that were added.
    """
    left, top, right, bottom = edges
    larger = Image.new("L", (picture.width + left + right, picture.height + top + bottom), 255)
    own = Image.new("L", picture.size)
    if mask is not None:
        own = mask.resize(picture.size, Image.Resampling.LANCZOS).convert("L")
    larger.paste(own, (left, top))
    return larger

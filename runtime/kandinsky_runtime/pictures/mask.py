"""Masks: from a picture or an array to what the pipeline keeps and what it repaints.

Two conventions meet here. The user's mask is white (1) where the picture is repainted; the latents' mask is 1 where
they are kept. Names say which: `mask` repaints, `keep` keeps.

Shapes: B pictures, H and W pixels, h and w latent cells. "The reference" is the Kandinsky 2.2 inpainting pipeline of
diffusers and ppdiffusers.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.image import (
    PictureSource,
    describe_range,
    float_to_eight_bit,
    open_picture,
    sixteen_to_eight_bit,
)

Scalar = TypeVar("Scalar", bound=np.generic)


def read_mask(source: PictureSource, *, invert: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A mask at its own size and not yet binary, for `fit_mask`; white is repainted. `source` is never changed.

    source: a path, the bytes of a file, a Pillow image, or an array.
        Files and Pillow images: any mode, turned upright by their EXIF orientation; white paints. Transparent areas
        count as black, whatever colours are stored beneath. 16 bits and float are scaled as in `image.read_image`.
        Arrays: (H, W), (H, W, 1) or (1, H, W); bool, float in [0, 1], or integers in 0..1, 0..255 or, if uint16,
        0..65535: the first of these ranges that holds every value is meant.
    invert: swap what is repainted and what is kept.

    Returns an image of mode 1, L or RGB. It keeps that mode because the reference resizes first and takes the
    luminance afterwards, which rounds differently in colours, and because Pillow resizes mode 1 by nearest neighbour.

    Raises InputError for anything else, and for a file that is missing, damaged or no picture.
    """
    if isinstance(source, np.ndarray):
        source = _picture_from_array(source)
    with open_picture(source, "mask", max_pixels) as picture:
        if picture.has_transparency_data:
            black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
            mask = Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB")
        else:
            mask = picture.convert(picture.mode if picture.mode in ("1", "L") else "RGB")  # always a copy
    mask.info = {}
    return ImageOps.invert(mask) if invert else mask


def box_mask(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A mask of width x height pixels that repaints a rectangle.

    Args:
        box: left, top, right and bottom edge in pixels; a negative number counts from the right or the bottom.

    Raises:
        InputError: the rectangle is empty or leaves the picture.
    """
    left, top, right, bottom = (
        edge + size if edge < 0 else edge for edge, size in zip(box, (width, height) * 2, strict=True)
    )
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"the box {','.join(map(str, box))} is {left},{top} to {right},{bottom}; expected left before right, top"
            f" before bottom, within {width}x{height} pixels"
        )
    mask = Image.new("L", (width, height))
    mask.paste(255, (left, top, right, bottom))
    return mask


def fit_mask(mask: Image.Image, width: int, height: int) -> NDArray[np.float32]:
    """A mask of `read_mask` at width x height, as float32 (H, W): 1 where its luminance is at least 0.5, else 0.

    Resized by Lanczos where the size differs (mode 1: nearest neighbour), as in the reference.
    """
    luminance = mask.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    return (np.asarray(luminance) >= 128).astype(np.float32)  # 128: the first above 0.5 * 255


def is_all_keep(mask: NDArray[np.float32]) -> bool:
    """Whether a {0, 1} mask of any shape repaints nothing."""
    return not mask.any()


def latent_keep_mask(mask: NDArray[np.float32], latent_height: int, latent_width: int) -> NDArray[np.float32]:
    """What the UNet and the compositing of latents see: float32 (B, 1, h, w), 1 where latents are kept.

    mask: (B, H, W) of {0, 1}, 1 = repaint. It is resized by nearest neighbour, then every cell to repaint takes six
    of its eight neighbours along: all but those above right and below left.
    """
    rows = _nearest(mask.shape[1], latent_height)
    columns = _nearest(mask.shape[2], latent_width)
    seed = mask[:, rows[:, None], columns]  # (B, h, w)
    repaint = seed.copy()
    for near, far in ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])):  # each cell takes what its neighbour has
        for cell, neighbour in (
            (np.s_[:, near, :], np.s_[:, far, :]),
            (np.s_[:, :, near], np.s_[:, :, far]),
            (np.s_[:, near, near], np.s_[:, far, far]),
        ):
            np.maximum(repaint[cell], seed[neighbour], out=repaint[cell])
    return np.subtract(1, repaint, dtype=np.float32)[:, None]


def paste(original: Image.Image, generated: Image.Image, mask: NDArray[np.float32]) -> Image.Image:
    """RGB: `generated` where the (H, W) mask is 1, `original`, bit for bit, where it is 0. All of one size."""
    return Image.fromarray(paste_pixels(np.asarray(original), np.asarray(generated), mask))


def paste_pixels(original: NDArray[Scalar], generated: NDArray[Scalar], mask: NDArray[np.float32]) -> NDArray[Scalar]:
    """`paste` for arrays (..., H, W, 3) of one dtype, any, with a mask (..., H, W)."""
    return np.where(mask[..., None] == 0, original, generated)


def _nearest(size: int, new_size: int) -> NDArray[np.intp]:
    """For each of `new_size` cells the one of `size` it is taken from, in float32 as torch and Paddle compute it."""
    ratio = np.float32(size) / np.float32(new_size)
    return np.minimum((np.arange(new_size, dtype=np.float32) * ratio).astype(np.intp), size - 1)


def _picture_from_array(array: NDArray[Any]) -> Image.Image:
    plane = array
    if array.ndim == 3 and array.shape[2] == 1:
        plane = array[:, :, 0]
    elif array.ndim == 3 and array.shape[0] == 1:
        plane = array[0]
    if plane.ndim != 2 or plane.size == 0:
        raise InputError(
            f"mask is an array of shape {array.shape}; expected (H, W), (H, W, 1) or (1, H, W), none empty: "
            "reduce colours to one channel, and give several masks as a list"
        )
    if plane.dtype.kind == "f":
        return _from_floats(plane)
    if plane.dtype.kind in "biu":
        return _from_integers(plane)
    raise InputError(f"mask is an array of {array.dtype}; expected bool, float in [0, 1] or integers: cast it")


def _from_floats(plane: NDArray[np.floating[Any]]) -> Image.Image:
    if not (plane.min() >= 0 and plane.max() <= 1):  # also true of NaN
        raise InputError(
            f"mask is an array of {describe_range(plane)}; float masks must be in [0, 1], 1 = repaint: rescale it"
        )
    return Image.fromarray(float_to_eight_bit(plane.astype(np.float64)))


def _from_integers(plane: NDArray[Any]) -> Image.Image:
    top = 65535 if plane.dtype == np.uint16 else 255
    if plane.min() < 0 or plane.max() > top:
        raise InputError(
            f"mask is an array of {describe_range(plane)}; integer masks must be in 0..1, 0..255 or, as uint16, "
            "0..65535, with the top = repaint: rescale it"
        )
    if plane.max() <= 1:
        return Image.fromarray(plane.astype(np.uint8) * np.uint8(255))
    if plane.max() <= 255:
        return Image.fromarray(plane.astype(np.uint8))
    return Image.fromarray(sixteen_to_eight_bit(plane))

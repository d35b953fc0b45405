"""Masks: from a picture or an array to the pixels that are repainted and the latents that are kept.

There are two conventions. A `mask` is the user's: white (1) is repainted. A `keep` mask is for latents: 1 is kept.

Resizing and growth equal those of the Kandinsky 2.2 inpainting pipelines of diffusers and ppdiffusers.

Legend: B pictures · H, W pixels · h, w latent cells
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.deep import sixteen_to_eight_bit
from kandinsky_runtime.pictures.mask_rules import by_rule
from kandinsky_runtime.pictures.opening import (
    PictureSource,
    describe_range,
    float_to_eight_bit,
    open_picture,
)

Scalar = TypeVar("Scalar", bound=np.generic)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mask:
    """A mask that was read; pipelines take one in place of its source.

    Attributes:
        image: the mask at its own size and not yet binary, of mode 1, L or RGB; white is repainted. The mode matters:
            diffusers resizes first and then takes the luminance, which rounds differently in colours, and Pillow
            resizes mode 1 by nearest neighbour.
        rule: what is repainted of the source: a name of `mask_rules.RULES`.
        orientation: the EXIF orientation that was undone; 1 for none.
        notes: what had to be guessed, one sentence each.
    """

    image: Image.Image
    rule: str = "white"
    orientation: int = 1
    notes: tuple[str, ...] = ()


AnyMask: TypeAlias = "PictureSource | Mask"


def understand_mask(source: AnyMask, *, mode: str = "auto", max_pixels: int = MAX_PIXELS) -> Mask:
    """A mask at its own size, and how it was understood; `source` is never changed.

    Files and Pillow images may have any mode. Files are turned upright by their EXIF orientation; Pillow images are
    taken as they are. `mask_rules` has the rules of white, black and transparent pixels. 16-bit and float modes are
    scaled as in `image.read_image`. A mask whose largest value is 1 has the values 0 and 1, in files, Pillow images
    and arrays alike.

    Arrays are (H, W), (H, W, 1) or (1, H, W): bool, float in [0, 1], or integers. The range of integers is the first
    that contains every value: 0..1, 0..255 or, for uint16, 0..65535.

    Args:
        source: a path, the bytes of a file, a Pillow image, an array, or a result of this function.
        mode: "auto", "alpha", "white" or "black", see `mask_rules`.
        max_pixels: the largest width x height.

    Raises:
        InputError: the source is something else; or the file is missing, damaged or not a picture.
    """
    if isinstance(source, Mask):
        return source
    if isinstance(source, np.ndarray):
        source = _picture_from_array(source)
    with open_picture(source, "mask", max_pixels, small_values=True) as opened:
        mask, rule = by_rule(opened, mode)
    mask.info = {}
    return Mask(mask, rule, opened.orientation, tuple(opened.notes))


def read_mask(
    source: AnyMask, *, mode: str = "auto", invert: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The image of `understand_mask`, for `fit_mask`; its notes are logged as warnings.

    Args:
        source, mode, max_pixels: see `understand_mask`.
        invert: whether to swap the pixels to repaint and the pixels to keep.
    """
    mask = understand_mask(source, mode=mode, max_pixels=max_pixels)
    for note in mask.notes:
        logger.warning(note)
    return ImageOps.invert(mask.image) if invert else mask.image


def largest_value(mask: Image.Image) -> int:
    """The largest luminance of a mask, 0 to 255; 128 and more is repainted."""
    return int(mask.convert("L").getextrema()[1])  # type: ignore[arg-type]


def box_mask(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """A mask of width x height pixels that repaints a rectangle.

    Args:
        width, height: the size of the mask.
        box: the left, top, right and bottom edge in pixels; a negative edge counts from the right or the bottom.

    Raises:
        InputError: the rectangle is empty or not within the picture.
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
    """The picture of a `Mask` at width x height, as float32 (H, W): 1 if its luminance is at least 0.5, else 0.

    Another size is resized by Lanczos (mode 1: nearest neighbour), as in diffusers.
    """
    luminance = mask.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    return (np.asarray(luminance) >= 128).astype(np.float32)  # 128 is the first level above 0.5 * 255


def fit_weights(mask: Image.Image, width: int, height: int, blur: float = 0) -> NDArray[np.float32]:
    """The grey levels of a mask at width x height as weights of the new picture, float32 (H, W) in [0, 1].

    Args:
        mask: the picture of a `Mask`.
        width, height: the size of the weights.
        blur: the standard deviation of a Gaussian, in pixels; Pillow's approximation of it, which ends.
    """
    levels = mask.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    if blur:
        levels = levels.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(levels).astype(np.float32) / np.float32(255)


def is_all_keep(mask: NDArray[np.float32]) -> bool:
    """Whether a {0, 1} mask of any shape repaints nothing."""
    return not mask.any()


def latent_keep_mask(mask: NDArray[np.float32], latent_height: int, latent_width: int) -> NDArray[np.float32]:
    """The mask of the latents to keep, float32 (B, 1, h, w), 1 = keep.

    The mask is resized by nearest neighbour. Then the repainted area grows by one cell in six of the eight directions:
    all but up-right and down-left.

    Args:
        mask: the mask of the pixels, (B, H, W) of {0, 1}, 1 = repaint.
        latent_height, latent_width: h and w.
    """
    rows = _nearest(mask.shape[1], latent_height)
    columns = _nearest(mask.shape[2], latent_width)
    seed = mask[:, rows[:, None], columns]  # (B, h, w)
    repaint = seed.copy()
    for near, far in ((np.s_[:-1], np.s_[1:]), (np.s_[1:], np.s_[:-1])):  # each cell takes its neighbour's value
        for cell, neighbour in (
            (np.s_[:, near, :], np.s_[:, far, :]),
            (np.s_[:, :, near], np.s_[:, :, far]),
            (np.s_[:, near, near], np.s_[:, far, far]),
        ):
            np.maximum(repaint[cell], seed[neighbour], out=repaint[cell])
    return np.subtract(1, repaint, dtype=np.float32)[:, None]


def paste_pixels(original: NDArray[Scalar], generated: NDArray[Scalar], mask: NDArray[np.float32]) -> NDArray[Scalar]:
    """`generated` at the 1s of a mask (..., H, W), `original` bit for bit at its 0s.

    The pictures are arrays (..., H, W, 3) of one dtype.
    """
    return np.where(mask[..., None] == 0, original, generated)


def blend_pixels(
    original: NDArray[np.float32], generated: NDArray[np.float32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`generated` with weights (H, W) in [0, 1], and `original` with the rest; exact at weights of 0 and 1."""
    share = weights[..., None]
    blended = original + share * (generated - original)
    return np.where(share == 0, original, np.where(share == 1, generated, blended))


def _nearest(size: int, new_size: int) -> NDArray[np.intp]:
    """The source cell, among `size`, of each of `new_size` cells; in float32 as in torch and Paddle."""
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
            f"mask is an array of shape {array.shape}; expected (H, W), (H, W, 1) or (1, H, W), not empty: "
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
            "0..65535, with the largest = repaint: rescale it"
        )
    if plane.max() <= 1:
        return Image.fromarray(plane.astype(np.uint8) * np.uint8(255))
    if plane.max() <= 255:
        return Image.fromarray(plane.astype(np.uint8))
    return Image.fromarray(sixteen_to_eight_bit(plane))

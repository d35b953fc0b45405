"""Pictures in and out: from files, Pillow images and arrays to RGB, to the model's arrays, and back.

Resizing and scaling equal those of the Kandinsky 2.2 inpainting pipelines of diffusers and ppdiffusers.

Legend: B pictures · H, W pixels
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.opening import PictureSource, describe_range, float_to_eight_bit, open_picture
from kandinsky_runtime.pictures.profiles import to_rgb

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture that was read; pipelines take one in place of its source.

    Attributes:
        image: the 8-bit RGB image, or RGBA if the picture is partly transparent. Its `info` has the colour profile, if
            there is one, and nothing else.
        name: its name in messages, such as "image cat.png".
        orientation: the EXIF orientation that was undone; 1 for none.
        notes: what had to be guessed, one sentence each.
    """

    image: Image.Image
    name: str = "image"
    orientation: int = 1
    notes: tuple[str, ...] = ()


AnyPicture: TypeAlias = "PictureSource | Picture"


def read_picture(source: AnyPicture, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """A picture as an 8-bit RGB image, and what had to be guessed; `source` is never changed.

    Files and Pillow images may have any mode. Files are turned upright by their EXIF orientation; Pillow images are
    taken as they are. 16-bit modes (`I;16`, `I` in 0..65535) and float (`F` in [0, 1]) are scaled to 8 bits and
    rounded. The first of several frames is used.
    The colours beneath transparent pixels are used, as in diffusers, so that hidden colours show; a note says so if
    there are any. `profiles` has the rules of colour profiles.

    Arrays are (H, W, 3), (H, W), (H, W, 1) or (H, W, 4), uint8 or float in [0, 1], rounded to 8 bits.

    Args:
        source: a path, the bytes of a file, a Pillow image, an array, or a result of this function.
        max_pixels: the largest width x height.

    Raises:
        InputError: the source is something else; or the file is missing, damaged or not a picture.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        source = _picture_from_array(source)
    with open_picture(source, "image", max_pixels) as opened:
        picture, notes = opened.picture, opened.notes
        image = to_rgb(picture, opened.profile, opened.name, notes)
        if picture.has_transparency_data:
            alpha = picture.convert("RGBA").getchannel("A")
            if alpha.getextrema()[0] != 255:
                notes.append(f"{opened.name} is partly transparent: the colours stored beneath are used")
                image.putalpha(alpha)
    return Picture(image, opened.name, opened.orientation, tuple(notes))


def read_image(source: AnyPicture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image of `read_picture` as RGB; its notes are logged as warnings."""
    picture = read_picture(source, max_pixels=max_pixels)
    for note in picture.notes:
        logger.warning(note)
    return without_alpha(picture.image)


def without_alpha(image: Image.Image) -> Image.Image:
    """An RGB or RGBA image as RGB; the same object if it is."""
    return image if image.mode == "RGB" else image.convert("RGB")


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """An image resized to width x height as in diffusers: bicubic, after a box reduction of large images.

    The alpha of an RGBA image is resized by itself, so that the colours are those of the RGB image.
    """
    if image.size == (width, height):
        return image
    if image.mode == "RGBA":
        resized = fit(image.convert("RGB"), width, height)
        resized.putalpha(fit(image.getchannel("A"), width, height))
        return resized
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=1)


def to_model(images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """RGB images of one size as float32 (B, 3, H, W) in [-1, 1]: x / 127.5 - 1."""
    pixels = np.stack([np.asarray(image) for image in images])  # (B, H, W, 3), uint8
    scaled = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32)
    scaled /= 127.5
    scaled -= 1.0
    return scaled


def from_model(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The decoder's float32 (B, 3, H, W), nominally in [-1, 1], as float32 (B, H, W, 3) clipped to [0, 1]."""
    scaled = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return np.clip(scaled * 0.5 + 0.5, 0.0, 1.0)


def to_pil(pixels: NDArray[np.float32]) -> list[Image.Image]:
    """Floats (B, H, W, 3) in [0, 1] as B RGB images, rounded to 8 bits."""
    return [Image.fromarray(picture) for picture in float_to_eight_bit(pixels)]


def pad_to_multiple(pixels: NDArray[np.float32], multiple: int) -> NDArray[np.float32]:
    """(B, 3, H, W), padded to multiples by repetition of the last row and column; `[..., :H, :W]` undoes it."""
    bottom, right = (-size % multiple for size in pixels.shape[2:])
    return np.pad(pixels, ((0, 0), (0, 0), (0, bottom), (0, right)), mode="edge")


def _picture_from_array(array: NDArray[Any]) -> Image.Image:
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"image is an array of shape {array.shape}; expected (H, W, 3), (H, W), (H, W, 1) or (H, W, 4), not empty"
        )
    if array.dtype == np.uint8:
        pixels = array
    elif array.dtype.kind != "f":
        raise InputError(
            f"image is an array of {array.dtype}; expected uint8 in 0..255 or float in [0, 1]: rescale and cast it"
        )
    elif not (array.min() >= 0 and array.max() <= 1):  # also true of NaN
        raise InputError(
            f"image is an array of {describe_range(array)}; float arrays must be in [0, 1]: "
            "rescale [-1, 1] by x / 2 + 0.5, and 0..255 by x / 255"
        )
    else:
        pixels = float_to_eight_bit(array.astype(np.float32))
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)

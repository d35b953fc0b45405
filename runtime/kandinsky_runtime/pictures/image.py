"""Pictures in and out: from files, Pillow images and arrays to RGB, to the model's arrays, and back.

Resizing and scaling equal those of the Kandinsky 2.2 inpainting pipelines of diffusers and ppdiffusers.

Legend: B pictures · H, W pixels
"""

from __future__ import annotations

import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from kandinsky_runtime.errors import InputError, Kandinsky22Error
from kandinsky_runtime.files import write_whole
from kandinsky_runtime.limits import MAX_PIXELS

logger = logging.getLogger(__name__)

PictureSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"

# EXIF orientation → the transposition that makes the picture upright; 1 is already upright.
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# suffix → Pillow's format, and the options to save without loss (JPEG: with little loss)
_OUTPUT_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}

_READ_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (FileNotFoundError, "does not exist; give the path of a PNG, JPEG or WebP file"),
    (IsADirectoryError, "is a directory; give the path of one PNG, JPEG or WebP file"),
    (PermissionError, "cannot be read without permission; give this user the right to read it"),
    (Image.DecompressionBombError, "has more pixels than Pillow opens; scale it down first"),
    (UnidentifiedImageError, "is not a picture that Pillow knows; convert it to PNG, JPEG or WebP"),
)


class _SilentWarnings:
    """Silences Python's warnings while at least one thread reads a picture.

    Warning filters belong to the whole process. The first thread that enters saves them, and the last thread that
    leaves restores them. The lock is held only meanwhile, so that threads decode at the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._readers += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                self._saved.__exit__(None, None, None)


_silent_warnings = _SilentWarnings()


def read_image(source: PictureSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture as an upright 8-bit RGB image without metadata; `source` is never changed.

    Files and Pillow images may have any mode, and are turned upright by their EXIF orientation. 16-bit modes (`I;16`,
    `I` in 0..65535) and float (`F` in [0, 1]) are scaled to 8 bits and rounded. The first of several frames is used.
    Alpha is dropped, as in diffusers, so that hidden colours show; a warning is logged if there are any.

    Arrays are (H, W, 3), (H, W), (H, W, 1) or (H, W, 4), uint8 or float in [0, 1], rounded to 8 bits.

    Args:
        source: a path, the bytes of a file, a Pillow image, or an array.
        max_pixels: the largest width x height; for files, Pillow's own limit (178 million) applies as well.

    Raises:
        InputError: the source is something else; or the file is missing, damaged or not a picture.
    """
    if isinstance(source, np.ndarray):
        source = _picture_from_array(source)
    with open_picture(source, "image", max_pixels) as picture:
        if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema()[0] != 255:
            logger.warning(
                "%s is partly transparent: its alpha is ignored, and the colours stored beneath are used",
                _name(source, "image"),
            )
        rgb = picture.convert("RGB")  # always a copy
    rgb.info = {}  # a later read would apply an orientation that is left here again
    return rgb


@contextmanager
def open_picture(source: PictureSource, what: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open a picture: upright, 8 bits for each channel, in its own mode and with its transparency.

    Pillow's warnings are silenced until the context ends.

    Args:
        source: a path, the bytes of a file, or a Pillow image, whose current frame is used.
        what: the name in errors, "image" or "mask".
        max_pixels: the largest width x height.

    Raises:
        InputError: the picture cannot be read, also if Pillow raises an error within the context.
    """
    name = _name(source, what)
    with _silent_warnings:
        try:
            if isinstance(source, Image.Image):
                _check_size(source, name, max_pixels)
                yield _eight_bit(_upright(source), name)
            elif isinstance(source, (str, os.PathLike, bytes)):
                with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
                    _check_size(opened, name, max_pixels)
                    if getattr(opened, "is_animated", False):
                        logger.warning("%s holds several frames: the first one is used", name)
                    yield _eight_bit(_upright(opened), name)
            else:
                raise InputError(f"{name} is a {type(source).__name__}; expected a path, a Pillow image or an array")
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise errors of any kind for damaged files
            reasons = (reason for kind, reason in _READ_FAILURES if isinstance(error, kind))
            damage = str(error) or type(error).__name__
            reason = next(
                reasons, f"cannot be decoded ({damage}); it is damaged or incomplete: export or download it again"
            )
            raise InputError(f"{name} {reason}") from error


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """An RGB image resized to width x height as in diffusers: bicubic, after a box reduction of large images."""
    if image.size == (width, height):
        return image
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


def check_output_path(path: str | os.PathLike[str]) -> None:
    """Raise InputError, before any work, if `save_image` could not write to `path`."""
    target = Path(path)
    if target.suffix.lower() not in _OUTPUT_FORMATS:
        raise InputError(
            f"output {target} has the suffix '{target.suffix}'; expected one of {', '.join(_OUTPUT_FORMATS)}"
        )
    try:
        if target.is_dir():
            raise InputError(f"output {target} is a directory; add a file name to it")
        if not target.parent.is_dir():
            raise InputError(f"output {target}: the folder {target.parent} does not exist; create it first")
    except OSError as error:  # the name is too long, or the folder is not accessible
        raise InputError(f"output {target} cannot be written: {error.strerror}; choose another path") from error
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"output {target}: the folder {target.parent} is not writable; choose another one")


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an RGB image in the format of the suffix of `path`. The write is atomic.

    Every format except JPEG is lossless.

    Raises:
        InputError: see `check_output_path`.
        Kandinsky22Error: the file cannot be written.
    """
    check_output_path(path)
    target = Path(path)
    file_format, options = _OUTPUT_FORMATS[target.suffix.lower()]
    try:
        write_whole(target, lambda stream: image.save(stream, file_format, **options))
    except (OSError, ValueError) as error:  # ValueError: a limit of the format, such as WebP's 16383 px
        raise Kandinsky22Error(f"output {target} cannot be written: {error}") from error


def describe_range(values: NDArray[Any]) -> str:
    """The dtype and range of an array, for errors."""
    return f"{values.dtype} values from {values.min():g} to {values.max():g}"


def sixteen_to_eight_bit(values: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Integers in 0..65535 scaled to 0..255 and rounded to nearest."""
    return ((values.astype(np.int32) + 128) // 257).astype(np.uint8)


def float_to_eight_bit(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Floats in [0, 1] scaled to 0..255 and rounded to nearest; 0.5 and more becomes 128 and more."""
    scaled: NDArray[np.floating[Any]] = np.rint(values * 255)
    return scaled.astype(np.uint8)


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


def _name(source: object, what: str) -> str:
    return f"{what} {os.fspath(source)}" if isinstance(source, (str, os.PathLike)) else what


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width == 0 or height == 0:
        raise InputError(f"{name} is {width}x{height} pixels; expected at least 1x1")
    if width * height > max_pixels:
        raise InputError(
            f"{name} is {width}x{height} pixels; expected at most {max_pixels} in all: scale it down first"
        )


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # first, because a PNG may store its EXIF data after its pixels
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # faulty EXIF data of a camera does not affect the pixels
        logger.warning("the EXIF data of a picture cannot be read: it is taken as upright")
        return picture
    turn = _TO_UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _eight_bit(picture: Image.Image, name: str) -> Image.Image:
    """The picture with 16-bit and float modes scaled to 8 bits, because Pillow would clip them."""
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    top = 1 if picture.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= top):  # also true of NaN
        raise InputError(
            f"{name} has {describe_range(values)} (Pillow mode {picture.mode}); expected 0 to {top}: rescale it"
        )
    return Image.fromarray(float_to_eight_bit(values) if picture.mode == "F" else sixteen_to_eight_bit(values))

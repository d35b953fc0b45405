"""Result pictures are written: in the format of the file's suffix, whole or not at all."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any

from PIL import Image

from kandinsky_runtime.checks import whole_number, writable_path
from kandinsky_runtime.errors import InputError, Kandinsky22Error, UsageError
from kandinsky_runtime.files import write_whole
from kandinsky_runtime.pictures.metadata import file_options

# suffix → Pillow's format, and the options to save without loss (JPEG: with little loss)
_OUTPUT_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".bmp": ("BMP", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
}


_WITHOUT_PROFILE = ("BMP",)
_WITHOUT_ALPHA = ("JPEG", "BMP")
_WITH_QUALITY = ("JPEG", "WEBP")
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # px, of libjpeg and of WebP's format

_log = logging.getLogger(__name__)


def check_output_path(path: str | os.PathLike[str], quality: int | None = None) -> None:
    """Raise InputError or UsageError, before any work, if `save_image` could not write to `path`."""
    target = Path(path)
    if target.suffix.lower() not in _OUTPUT_FORMATS:
        raise InputError(
            f"output {target} has the suffix '{target.suffix}'; expected one of {', '.join(_OUTPUT_FORMATS)}"
        )
    if quality is not None:
        whole_number("quality", quality, 1, 100)
        if _OUTPUT_FORMATS[target.suffix.lower()][0] not in _WITH_QUALITY:
            raise UsageError(
                f"output {target}: quality is for JPEG and WebP files; leave it out, or choose their suffix"
            )
    writable_path("output", path)


def longest_side(suffix: str) -> int | None:
    """The most pixels of a side of a picture in the format of a suffix, such as ".webp"; None if it has no limit."""
    return _LONGEST_SIDE.get(_OUTPUT_FORMATS[suffix][0])


def check_output_size(path: str | os.PathLike[str], size: tuple[int, int]) -> None:
    """Raise InputError if the format of the suffix of `path` cannot hold a picture of `size`, (width, height)."""
    suffix = Path(path).suffix.lower()
    _check_sides(_OUTPUT_FORMATS[suffix][0], size, f"output {Path(path)}")


def save_image(image: Image.Image, path: str | os.PathLike[str], quality: int | None = None) -> list[str]:
    """Write an RGB or RGBA image with its colour profile in the format of the suffix of `path`. The write is atomic.

    The file has the image's entries of `metadata`. Every format except JPEG is lossless. With `quality`, 1 to 100,
    WebP is not, and JPEG has that quality instead of 95. What a format cannot hold is left out, with a warning: JPEG
    and BMP have no transparency, and BMP has no profile.

    Returns:
        The warnings, one sentence each.

    Raises:
        InputError, UsageError: see `check_output_path` and `check_output_size`.
        Kandinsky22Error: the file cannot be written.
    """
    check_output_path(path, quality)
    target = Path(path)
    content, notes = _encoded(image, target.suffix.lower(), quality, f"output {target}")
    try:
        write_whole(target, content)
    except OSError as error:
        raise Kandinsky22Error(f"output {target} cannot be written: {error}") from error
    return notes


def encode_image(image: Image.Image, suffix: str, quality: int | None = None) -> bytes:
    """The bytes of the file that `save_image` writes for a path with this suffix.

    Raises:
        InputError: the format cannot hold a picture of this size.
        Kandinsky22Error: the picture cannot be encoded.
    """
    return _encoded(image, suffix, quality, "the result")[0]


def _encoded(image: Image.Image, suffix: str, quality: int | None, name: str) -> tuple[bytes, list[str]]:
    """The bytes of the file, and what was left out, which is also logged.

    Pillow's encoders write to memory: to a full disk, some of them write a part and report nothing.
    """
    picture, file_format, options, notes = _for_file(image, suffix, quality, name)
    for note in notes:
        _log.warning(note)
    _check_sides(file_format, picture.size, name)
    stream = io.BytesIO()
    try:
        picture.save(stream, file_format, **options)
    except (OSError, ValueError) as error:
        raise Kandinsky22Error(f"{name} cannot be written as {file_format}: {error}") from error
    return stream.getvalue(), notes


def _check_sides(file_format: str, size: tuple[int, int], name: str) -> None:
    most = _LONGEST_SIDE.get(file_format)
    if most is not None and max(size) > most:
        raise InputError(
            f"{name} cannot be written: the picture is {size[0]}x{size[1]} pixels, and a {file_format} file has at most"
            f" {most} on each side; choose the suffix .png or .tif, or a smaller size"
        )


def _for_file(
    image: Image.Image, suffix: str, quality: int | None, name: str
) -> tuple[Image.Image, str, dict[str, Any], list[str]]:
    """The picture as a format can hold it, Pillow's name of the format, its options, and what was left out."""
    notes: list[str] = []
    file_format, options = _OUTPUT_FORMATS[suffix]
    options = options | file_options(image, file_format)
    if quality is not None:
        options = options | {"quality": quality, "lossless": False}
    profile = image.info.get("icc_profile")
    if profile and file_format in _WITHOUT_PROFILE:
        notes.append(f"{name}: {file_format} holds no colour profile; the picture's is left out")
    elif profile:
        options = options | {"icc_profile": profile}
    if image.mode == "RGBA" and file_format in _WITHOUT_ALPHA:
        notes.append(f"{name}: {file_format} holds no transparency; the picture's is left out")
        image = image.convert("RGB")
    return image, file_format, options, notes

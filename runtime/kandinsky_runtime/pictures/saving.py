"""Result pictures are written: in the format of the file's suffix, whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from PIL import Image

from kandinsky_runtime.errors import InputError, Kandinsky22Error
from kandinsky_runtime.files import write_whole

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

_log = logging.getLogger(__name__)


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
    """Write an RGB or RGBA image with its colour profile in the format of the suffix of `path`. The write is atomic.

    Every format except JPEG is lossless. What a format cannot hold is left out, with a warning: JPEG and BMP have no
    transparency, and BMP has no profile.

    Raises:
        InputError: see `check_output_path`.
        Kandinsky22Error: the file cannot be written.
    """
    check_output_path(path)
    target = Path(path)
    file_format, options = _OUTPUT_FORMATS[target.suffix.lower()]
    profile = image.info.get("icc_profile")
    if profile and file_format in _WITHOUT_PROFILE:
        _log.warning("output %s: %s holds no colour profile; the picture's is left out", target, file_format)
    elif profile:
        options = {**options, "icc_profile": profile}
    if image.mode == "RGBA" and file_format in _WITHOUT_ALPHA:
        _log.warning("output %s: %s holds no transparency; the picture's is left out", target, file_format)
        image = image.convert("RGB")
    try:
        write_whole(target, lambda stream: image.save(stream, file_format, **options))
    except (OSError, ValueError) as error:  # ValueError: a limit of the format, such as WebP's 16383 px
        raise Kandinsky22Error(f"output {target} cannot be written: {error}") from error

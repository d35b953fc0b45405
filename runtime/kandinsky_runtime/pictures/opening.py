"""Pictures are opened: from a path, the bytes of a file or a Pillow image to 8 bits for each channel.

Files are turned upright by their EXIF orientation, as viewers show them. Pillow images are taken as they are, as
diffusers takes them.

What had to be guessed is a note, one sentence each.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.files import read_pipe
from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.deep import DeepColours, sixteen_to_eight_bit
from kandinsky_runtime.pictures.quiet import no_pixel_limit, silent_tiff, silent_warnings

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

# More than this is no picture: four channels of 16 bits without compression, and profiles, EXIF data and previews
_BYTES_OF_A_PIXEL = 8
_BYTES_OF_METADATA = 1 << 26

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EPS = (b"%!PS", b"\xc5\xd0\xd3\xc6")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_WITH_A_PLUG_IN = frozenset({".heic", ".heif", ".avif"})
# What Pillow and its plug-ins decode themselves. EPS runs Ghostscript, WMF runs the system's own code, and IPTC opens
# what it holds as any format.
_FORMATS = (
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "HEIF", "ICNS", "ICO", "IM",
    "IMT", "JPEG", "JPEG2000", "JXL", "MCIDAS", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI",
    "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
)  # fmt: skip

_READ_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (FileNotFoundError, "does not exist; give the path of a PNG, JPEG or WebP file"),
    (IsADirectoryError, "is a directory; give the path of one PNG, JPEG or WebP file"),
    (PermissionError, "cannot be read without permission; give this user the right to read it"),
    (Image.DecompressionBombError, "has more pixels than Pillow opens; scale it down first"),
    (UnidentifiedImageError, "is not a picture that Pillow knows; convert it to PNG, JPEG or WebP"),
)


@dataclass(frozen=True)
class Opened:
    """An opened picture.

    Attributes:
        picture: the picture, 8 bits for each channel, in its own mode and with its transparency.
        name: its name in messages, such as "image cat.png".
        orientation: the EXIF orientation that was undone; 1 for none.
        profile: its ICC profile, or None.
        notes: what had to be guessed, one sentence each.
    """

    picture: Image.Image
    name: str
    orientation: int = 1
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)


@contextmanager
def open_picture(
    source: PictureSource, what: str, max_pixels: int = MAX_PIXELS, *, small_values: bool = False
) -> Iterator[Opened]:
    """Open a picture: 8 bits for each channel, in its own mode and with its transparency; files are turned upright.

    Pillow's warnings are silenced until the context ends.

    Args:
        source: a path, the bytes of a file, or a Pillow image, whose current frame is used. A pipe is read once.
        what: the name in errors, "image" or "mask".
        max_pixels: the largest width x height.
        small_values: whether 16-bit pictures whose values all fit 0..1 or 0..255 are taken by that range.

    Raises:
        InputError: the picture cannot be read, also if Pillow raises an error within the context.
    """
    name = _name(source, what)
    with ExitStack() as reading:
        reading.enter_context(silent_warnings)
        try:
            if isinstance(source, Image.Image):
                yield _opened(source, name, max_pixels, small_values, file=False)
            elif isinstance(source, (str, os.PathLike, bytes)):
                source = piped_picture(source, name, max_pixels)
                _prepare(_head(source), name, max_pixels, reading)
                with _open(source) as file:
                    frames = getattr(file, "is_animated", False)
                    deep = DeepColours.of(file, partial(_open, source))
                    opened = _opened(file, name, max_pixels, small_values, file=True, deep=deep)
                    if frames:
                        opened.notes.append(f"{name} holds several frames: the first one is used")
                    yield opened
            else:
                raise InputError(f"{name} is a {type(source).__name__}; expected a path, a Pillow image or an array")
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise errors of any kind for damaged files
            reasons = (reason for kind, reason in _READ_FAILURES if isinstance(error, kind))
            damage = str(error) or type(error).__name__
            reason = f"cannot be decoded ({damage}); it is damaged or incomplete: export or download it again"
            if isinstance(error, OSError) and error.strerror:  # of the system, such as a name that is too long
                reason = f"cannot be read: {error.strerror}; give the path of a PNG, JPEG or WebP file"
            reason = next(reasons, reason)
            raise InputError(f"{name} {reason}") from error


def picture_suffixes() -> frozenset[str]:
    """The suffixes, such as ".png", of every kind of picture that can be read here, or with a plug-in."""
    Image.init()
    kinds = Image.registered_extensions()
    return _WITH_A_PLUG_IN | {suffix for suffix, kind in kinds.items() if kind in Image.OPEN and kind in _FORMATS}


def piped_picture(
    source: str | os.PathLike[str] | bytes, name: str, max_pixels: int = MAX_PIXELS
) -> str | os.PathLike[str] | bytes:
    """The content of a pipe, such as /dev/stdin, which gives it only once; every other source as it is.

    Raises:
        InputError: the pipe gives more bytes than a picture of `max_pixels` has.
        OSError: the path cannot be found or read.
    """
    if isinstance(source, bytes):
        return source
    content = read_pipe(source, name, max_pixels * _BYTES_OF_A_PIXEL + _BYTES_OF_METADATA)
    return source if content is None else content


def describe_range(values: NDArray[Any]) -> str:
    """The dtype and range of an array, for errors."""
    return f"{values.dtype} values from {values.min():g} to {values.max():g}"


def float_to_eight_bit(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Floats in [0, 1] scaled to 0..255 and rounded to nearest; 0.5 and more becomes 128 and more."""
    scaled: NDArray[np.floating[Any]] = np.rint(values * 255)
    return scaled.astype(np.uint8)


def _open(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Open a file as one of `_FORMATS`; no other program takes part."""
    Image.preinit()
    try:
        return _open_as_loaded(source)
    except UnidentifiedImageError:
        Image.init()  # the rarer formats, which take 40 ms to load
        return _open_as_loaded(source)


def _open_as_loaded(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Open a file as one of `_FORMATS` that Pillow has loaded."""
    formats = [name for name in Image.OPEN if name in _FORMATS]
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)


def _head(source: str | os.PathLike[str] | bytes) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, bytes):
        return source[:16]
    with Path(source).open("rb") as file:
        return file.read(16)


def _prepare(head: bytes, name: str, max_pixels: int, reading: ExitStack) -> None:
    """Make Pillow ready for a file that begins with `head`, while `reading` lasts.

    Raises:
        InputError: the file is of a format that is not read, or needs a plug-in that is not installed.
    """
    if head[:4] in _EPS:
        raise InputError(f"{name} is an EPS file, which is not read; convert it to PNG")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > MAX_PIXELS:
        reading.enter_context(no_pixel_limit)  # the caller's own limit applies
    if head[:4] in _TIFF:
        reading.enter_context(silent_tiff)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            raise InputError(
                f"{name} is a HEIC picture: pip install pillow-heif, or convert it to PNG, JPEG or WebP"
            ) from None


def turned_upright(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture that was stored with an EXIF orientation, upright."""
    turn = _TO_UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _opened(
    picture: Image.Image, name: str, max_pixels: int, small_values: bool, *, file: bool, deep: DeepColours | None = None
) -> Opened:
    _check_size(picture, name, max_pixels)
    notes: list[str] = []
    orientation = _orientation(picture, name, notes)
    if not file and orientation != 1:
        notes.append(
            f"{name} is a Pillow picture with the EXIF orientation {orientation}: it is taken as it is;"
            " ImageOps.exif_transpose turns it upright"
        )
        orientation = 1
    profile = picture.info.get("icc_profile")
    if deep is not None:
        picture = deep.rounded(picture)
    eight_bit = _eight_bit(turned_upright(picture, orientation), name, notes if small_values else None)
    if file and orientation == 1:
        orientation = _undone_by_the_plug_in(picture)
    return Opened(eight_bit, name, orientation, profile if isinstance(profile, bytes) and profile else None, notes)


def _undone_by_the_plug_in(picture: Image.Image) -> int:
    """The orientation that a plug-in undid by itself when it opened a file, as pillow-heif does; 1 for none."""
    undone = picture.info.get("original_orientation")
    return undone if isinstance(undone, int) and undone in _TO_UPRIGHT else 1


def _name(source: object, what: str) -> str:
    return f"{what} {os.fspath(source)}" if isinstance(source, (str, os.PathLike)) else what


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width == 0 or height == 0:
        raise InputError(f"{name} is {width}x{height} pixels; expected at least 1x1")
    if width * height > max_pixels:
        raise InputError(
            f"{name} is {width}x{height} pixels; expected at most {max_pixels} in all: scale it down first, or raise"
            " max_pixels"
        )


def _orientation(picture: Image.Image, name: str, notes: list[str]) -> int:
    picture.load()  # first, because a PNG may store its EXIF data after its pixels
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # faulty EXIF data of a camera does not affect the pixels
        notes.append(f"the EXIF data of {name} cannot be read: it is taken as upright")
        return 1
    return orientation if orientation in _TO_UPRIGHT else 1


def _eight_bit(picture: Image.Image, name: str, notes: list[str] | None) -> Image.Image:
    """The picture with 16-bit and float modes scaled to 8 bits, because Pillow would clip them.

    With `notes`, integers that fit a smaller range are taken by it, and a note says so.
    """
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    top = 1 if picture.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= top):  # also true of NaN
        raise InputError(
            f"{name} has {describe_range(values)} (Pillow mode {picture.mode}); expected 0 to {top}: rescale it"
        )
    if picture.mode == "F":
        return Image.fromarray(float_to_eight_bit(values))
    levels = _eight_bit_levels(values, name, notes)
    transparent = picture.info.get("transparency")
    if not isinstance(transparent, int):
        return Image.fromarray(levels)
    opaque = (values != transparent).astype(np.uint8) * np.uint8(255)
    return Image.merge("LA", (Image.fromarray(levels), Image.fromarray(opaque)))


def _eight_bit_levels(values: NDArray[Any], name: str, notes: list[str] | None) -> NDArray[np.uint8]:
    if notes is not None and 1 < values.max() <= 255:
        notes.append(f"{name} has 16 bits, and no value is above {values.max()}: its values are taken as 0 to 255")
    if notes is not None and values.max() <= 255:
        return values.astype(np.uint8)
    return sixteen_to_eight_bit(values)

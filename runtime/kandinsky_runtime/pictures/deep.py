"""Files of 16 bits for each channel of colour, which Pillow cuts to the upper 8 bits: here they are rounded.

Pillow opens such a file as 8-bit RGB. Opened a second time with the byte order swapped, the same decoder gives the
lower 8 bits.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_NATIVE = "16L" if sys.byteorder == "little" else "16B"
_SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if _NATIVE == "16L" else "16L"}
_COLOURS = ("RGB", "RGBA")


@dataclass(frozen=True)
class DeepColours:
    """The colours of a file that holds 16 bits for each channel.

    Attributes:
        reopen: opens the file a second time.
        grey: whether the file is grey with alpha, which Pillow opens as RGBA.
    """

    reopen: Callable[[], Image.Image]
    grey: bool

    @classmethod
    def of(cls, file: Image.Image, reopen: Callable[[], Image.Image]) -> DeepColours | None:
        """The colours of an opened file that is not yet loaded, or None if it is of another kind."""
        if file.format not in ("PNG", "TIFF") or file.mode not in _COLOURS:
            return None
        raw = {_raw_mode(tile) for tile in getattr(file, "tile", ())}
        if raw == {"LA;16B"}:
            return cls(reopen, True)
        if len(raw) == 1 and any(
            mode in {f"{kind};{order}" for kind in _COLOURS for order in _SWAPPED} for mode in raw
        ):
            return cls(reopen, False)
        return None

    def rounded(self, loaded: Image.Image) -> Image.Image:
        """The loaded file in 8 bits, rounded; a transparent colour becomes alpha."""
        values = self._values(loaded)
        pixels = sixteen_to_eight_bit(values)
        transparent = loaded.info.get("transparency")
        if isinstance(transparent, tuple) and pixels.shape[2] == 3:
            opaque = (values != np.array(transparent)).any(axis=2)
            pixels = np.dstack([pixels, opaque.astype(np.uint8) * np.uint8(255)])
        picture = Image.fromarray(pixels)
        picture.info = {name: value for name, value in loaded.info.items() if name != "transparency"}
        return picture

    def _values(self, loaded: Image.Image) -> NDArray[np.uint16]:
        with self.reopen() as again:
            tiles: Any = again
            tiles.tile = [self._other_bytes(tile) for tile in tiles.tile]
            again.load()
            other = np.asarray(again).astype(np.uint16)
        if self.grey:  # the four bytes of a pixel
            grey, alpha = other[..., 0] << 8 | other[..., 1], other[..., 2] << 8 | other[..., 3]
            return np.dstack([grey, grey, grey, alpha])
        values: NDArray[np.uint16] = np.left_shift(np.asarray(loaded).astype(np.uint16), 8) | other
        return values

    def _other_bytes(self, tile: Any) -> Any:
        if self.grey:
            raw = "RGBA"
        else:
            kind, _, order = _raw_mode(tile).partition(";")
            raw = f"{kind};{_SWAPPED[order]}"
        args = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
        return type(tile)(*tile[:3], args) if hasattr(tile, "_fields") else (*tile[:3], args)


def sixteen_to_eight_bit(values: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Integers in 0..65535 scaled to 0..255 and rounded to nearest."""
    return ((values.astype(np.int32) + 128) // 257).astype(np.uint8)


def _raw_mode(tile: Any) -> str:
    args = tile[3]
    return str(args[0] if isinstance(args, tuple) else args)

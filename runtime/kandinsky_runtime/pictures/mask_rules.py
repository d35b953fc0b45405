"""What the pixels of a mask mean: from an opened picture to a mask whose white is repainted.

The rules, by `mask_mode`:

    white   white is repainted; transparent pixels are kept, whatever their colours
    black   black is repainted; transparent pixels are kept, whatever their colours
    alpha   what is transparent is repainted, as in OpenAI's edits
    auto    alpha if the transparency varies and something other than white is opaque, such as a photo with a hole;
            else white, also for white strokes on a transparent layer
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures.opening import Opened

RULES = {
    "white": "white is repainted",
    "black": "black is repainted",
    "alpha": "what is transparent is repainted",
    "added": "what was added to the picture is repainted",
}
_WHITE = 250  # the least level of a channel that counts as white
_OPAQUE = 128  # the least alpha that counts as opaque


def by_rule(opened: Opened, mode: str) -> tuple[Image.Image, str]:
    """A mask of mode 1, L or RGB whose white is repainted, and the rule; guesses are added to `opened.notes`.

    Raises:
        InputError: the mode is "alpha", and the picture has no transparency.
    """
    picture = opened.picture
    if not picture.has_transparency_data:
        if mode == "alpha":
            raise InputError(
                f"{opened.name} has no transparency, and mask_mode 'alpha' repaints what is transparent: give a picture"
                " with an alpha channel, or another mask_mode"
            )
        mask = picture.convert(picture.mode if picture.mode in ("1", "L") else "RGB")  # always a copy
        mask = _zero_or_one(mask, opened)
        return (ImageOps.invert(mask), mode) if mode == "black" else (mask, "white")
    coloured = _zero_or_one(picture.convert("RGBA"), opened)
    if mode == "alpha" or (mode == "auto" and _is_cut_out(coloured, opened)):
        return ImageOps.invert(coloured.getchannel("A")), "alpha"
    ground = Image.new("RGBA", picture.size, "white" if mode == "black" else "black")
    flat = Image.alpha_composite(ground, coloured).convert("RGB")
    return (ImageOps.invert(flat), mode) if mode == "black" else (flat, "white")


def _is_cut_out(coloured: Image.Image, opened: Opened) -> bool:
    """Whether the transparency of an RGBA picture marks what to repaint; the guess is noted."""
    pixels = np.asarray(coloured)
    alpha = pixels[..., 3]
    if alpha.min() == alpha.max():
        return False
    shown = alpha >= _OPAQUE
    if not shown.any():
        shown = alpha > 0
    white = bool((pixels[..., :3][shown] >= _WHITE).all())
    opened.notes.append(
        f"{opened.name} is white on transparent: white is repainted; mask_mode 'alpha' repaints what is transparent"
        if white
        else f"{opened.name} is partly transparent: what is transparent is repainted; mask_mode 'white' goes by colours"
    )
    return not white


def _zero_or_one(picture: Image.Image, opened: Opened) -> Image.Image:
    """The picture with colours of 0 and 1 scaled to 0 and 255, and so its alpha."""
    if picture.mode == "1":
        return picture
    bands = picture.split()
    parts = {"values": bands[:3], "alpha values": bands[3:]}
    scaled: list[Image.Image] = []
    for what, part in parts.items():
        if part and max(int(band.getextrema()[1]) for band in part) == 1:  # type: ignore[arg-type]
            opened.notes.append(f"{opened.name} has no value above 1: its {what} are taken as 0 and 1, and 1 as white")
            part = tuple(band.point([0] + [255] * 255) for band in part)
        scaled.extend(part)
    return Image.merge(picture.mode, scaled)

"""What the pixels of a mask mean: from an opened picture to a mask whose white is repainted."""

from __future__ import annotations

from PIL import Image

from kandinsky_runtime.pictures.opening import Opened


def by_rule(opened: Opened) -> tuple[Image.Image, str]:
    """A mask of mode 1, L or RGB whose white is repainted, and the rule; guesses are added to `opened.notes`.

    Transparent pixels count as black, whatever their colours.
    """
    picture = opened.picture
    if picture.has_transparency_data:
        coloured = _zero_or_one(picture.convert("RGBA"), opened)
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, coloured).convert("RGB"), "white"
    mask = picture.convert(picture.mode if picture.mode in ("1", "L") else "RGB")  # always a copy
    return _zero_or_one(mask, opened), "white"


def _zero_or_one(picture: Image.Image, opened: Opened) -> Image.Image:
    """The picture with colours of 0 and 1 scaled to 0 and 255."""
    bands = picture.split()
    colours = bands[:3]
    if picture.mode == "1" or max(int(band.getextrema()[1]) for band in colours) != 1:  # type: ignore[arg-type]
        return picture
    opened.notes.append(f"{opened.name} has no value above 1: its values are taken as 0 and 1, and 1 as white")
    white = [band.point([0] + [255] * 255) for band in colours]
    return Image.merge(picture.mode, [*white, *bands[3:]])

"""A mask and its picture are brought to lie on each other.

A picture file is turned upright by its EXIF orientation. Its mask may have been drawn on the picture as it is shown, or
as it is stored.
"""

from __future__ import annotations

from dataclasses import replace

from kandinsky_runtime.pictures.image import Picture
from kandinsky_runtime.pictures.mask import Mask
from kandinsky_runtime.pictures.opening import turned_upright
from kandinsky_runtime.pictures.sizes import same_proportions


def registered(mask: Mask, picture: Picture) -> tuple[Mask, str]:
    """The mask of an upright picture, and a note on what was guessed, or an empty text.

    A mask that fits the picture's stored size, and not its upright size, is turned with the picture. A mask that fits
    both, or was turned by an orientation of its own, is taken as upright.
    """
    orientation, upright = picture.orientation, picture.image.size
    if orientation == 1 or mask.orientation != 1:
        return mask, ""
    stored = upright[::-1] if orientation >= 5 else upright
    was_turned = f"{picture.name} was turned upright by its EXIF orientation {orientation}"
    size, fits_stored = "{}x{}".format(*stored), same_proportions(mask.image.size, stored)
    if fits_stored and not same_proportions(mask.image.size, upright):
        turned = replace(mask, image=turned_upright(mask.image, orientation))
        return turned, f"{was_turned}, and its mask with it, because the mask fits the stored size {size}"
    if fits_stored:
        return mask, f"{was_turned}; its mask fits both ways, and is taken as upright"
    return mask, ""


def stretching(mask: Mask, picture: Picture) -> str:
    """A note if the mask is stretched to the picture, or an empty text."""
    across, down = mask.image.size
    if same_proportions(mask.image.size, picture.image.size):
        return ""
    return (
        f"the mask is {across}x{down} and {picture.name} {picture.image.width}x{picture.image.height}: the mask is"
        " stretched to the picture"
    )

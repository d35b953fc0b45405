"""Colour profiles: kept for RGB pictures, used up for pictures of other colours.

A model takes RGB values as they are, as in diffusers. So the profile of an RGB picture goes with its pixels to the
result, and no kept pixel changes. Colours of another kind, CMYK or grey, are converted to sRGB by their profile.
"""

from __future__ import annotations

import io

from PIL import Image

_KINDS = {"CMYK": "CMYK", "GRAY": "L"}  # a profile's colour space → the mode that it describes


def colour_space(profile: bytes) -> str:
    """The colour space that an ICC profile describes, such as "RGB", "CMYK" or "GRAY"; empty if it is no profile."""
    if len(profile) < 128 or profile[36:40] != b"acsp":
        return ""
    return profile[16:20].decode("latin-1").strip()


def to_rgb(picture: Image.Image, profile: bytes | None, name: str, notes: list[str]) -> Image.Image:
    """A copy of a picture in RGB, whose `info` has its profile and nothing else; guesses are added to `notes`.

    Args:
        picture: 8 bits for each channel, of any mode; transparency is dropped.
        profile: the picture's ICC profile, or None.
        name: the picture's name in notes.
        notes: a list to add to.
    """
    flat = picture.convert("L") if picture.mode in ("LA", "1") else picture
    space = colour_space(profile) if profile else ""
    converted = None
    if profile and space in _KINDS and flat.mode == _KINDS[space]:
        converted = _by_profile(flat, profile, name, notes)
    elif profile and space != "RGB":
        notes.append(f"the colour profile of {name} does not fit its colours ({picture.mode}): it is left out")
    elif not profile and picture.mode == "CMYK":
        notes.append(f"{name} has CMYK colours without a colour profile: they are converted by a plain formula")
    rgb = picture.convert("RGB") if converted is None else converted  # always a copy
    rgb.info = {"icc_profile": profile} if space == "RGB" else {}
    return rgb


def _by_profile(picture: Image.Image, profile: bytes, name: str, notes: list[str]) -> Image.Image | None:
    """The picture in sRGB, or None if Pillow cannot convert it by its profile."""
    try:
        from PIL import ImageCms

        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, io.BytesIO(profile), srgb, outputMode="RGB")
    except Exception as error:  # a damaged profile, or a Pillow without LittleCMS
        notes.append(f"the colour profile of {name} cannot be used ({error}): its colours are converted without it")
        return None
    notes.append(f"the {picture.mode} colours of {name} were converted to sRGB by its colour profile")
    return converted

"""How a picture was made, in the picture: written into its file, and readable by common tools.

Two entries of an image's `info` carry it: `parameters`, the text that Stable Diffusion's tools write and read, and
`k22`, everything as JSON. PNG files have both as text. JPEG and WebP files have the former as EXIF UserComment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

PARAMETERS, RECORD = "parameters", "k22"
_LONGEST = 60_000  # bytes of a UserComment: JPEG holds 64 KB of EXIF data

# our names → those of the text that common tools read, in their order
_NAMES = {
    "steps": "Steps",
    "scheduler": "Sampler",
    "guidance_scale": "CFG scale",
    "seed": "Seed",
    "size": "Size",
    "bundle": "Model",
    "source": "Source",
    "version": "Version",
}


def describe(image: Image.Image, record: Mapping[str, Any]) -> None:
    """Put a record of how a picture was made into its `info`.

    Args:
        image: the picture.
        record: `prompt`, `negative_prompt`, and what `parameters` lists; None is left out.
    """
    known = {name: value for name, value in record.items() if value is not None}
    image.info[PARAMETERS] = parameters(known)
    image.info[RECORD] = json.dumps(known)


def parameters(record: Mapping[str, Any]) -> str:
    """A record as the text of common tools: the prompt, the negative prompt, and a line of names and values."""
    lines = [str(record.get("prompt", ""))]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    lines.append(", ".join(f"{shown}: {_quoted(record[name])}" for name, shown in _NAMES.items() if name in record))
    return _encodable("\n".join(lines))


def file_options(image: Image.Image, file_format: str) -> dict[str, Any]:
    """Pillow's options to write the entries of `describe` into a file of a format; empty without entries."""
    text = image.info.get(PARAMETERS)
    if not text:
        return {}
    if file_format == "PNG":
        info = PngInfo()
        for name in (PARAMETERS, RECORD):
            info.add_text(name, image.info.get(name, ""))
        return {"pnginfo": info}
    if file_format not in ("JPEG", "WEBP"):
        return {}
    exif, whole = Image.Exif(), text.encode("utf-16-be")[:_LONGEST].decode("utf-16-be", "ignore")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"UNICODE\0" + whole.encode("utf-16-be")
    return {"exif": exif}


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(text, ensure_ascii=False) if any(mark in text for mark in ',:\n"') else text


def _encodable(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair that stands alone."""
    return text.encode("utf-8", "replace").decode("utf-8")

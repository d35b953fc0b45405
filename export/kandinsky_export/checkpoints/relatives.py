"""Models that look like a Kandinsky 2.2 decoder or prior and are not: recognised by their small files alone.

So they are refused by name, before gigabytes of their weights are fetched, and not with a fault for every tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kandinsky_export.errors import CheckpointError

DECODER_FILES = ("model_index.json", "unet/config.json")
PRIOR_FILES = ("model_index.json",)

_CONTROLNET = "the ControlNet decoder of Kandinsky 2.2, which takes a depth map"
_OLD = "a Kandinsky 2.1 {}"
# Class in model_index.json → what it is.
_PIPELINES: Mapping[str, str] = {
    **dict.fromkeys(("KandinskyV22ControlnetPipeline", "KandinskyV22ControlnetImg2ImgPipeline"), _CONTROLNET),
    **{
        f"Kandinsky{task}{kind}Pipeline": _OLD.format("decoder")
        for task in ("", "Img2Img", "Inpaint")
        for kind in ("", "Combined")
    },
    "KandinskyPriorPipeline": _OLD.format("prior"),
    **dict.fromkeys(("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline"), "a Kandinsky 3 model"),
}
# Setting and value in the UNet's config → what it is; ppdiffusers' and diffusers' names are the same.
_UNETS: Mapping[tuple[str, str], str] = {
    ("addition_embed_type", "image_hint"): _CONTROLNET,
    ("addition_embed_type", "text_image"): _OLD.format("decoder"),
    ("encoder_hid_dim_type", "text_image_proj"): _OLD.format("decoder"),
}


def refuse_relatives(root: Path, subject: str, *, prior: bool) -> None:
    """Refuse a folder whose model_index.json or UNet config is that of a relative.

    Files that are missing or cannot be read are left to whoever needs them.

    Args:
        root: the folder; the weights need not be there.
        subject: the checkpoint's name in the error.
        prior: whether a prior is wanted, or a decoder.

    Raises:
        CheckpointError: the one fault that explains all others.
    """
    index = _read(root / "model_index.json")
    unet = {} if prior else _read(root / "unet" / "config.json")
    kinds = [_PIPELINES.get(str(index.get("_class_name")))]
    kinds += [kind for (key, value), kind in _UNETS.items() if unet.get(key) == value]
    kind = next(filter(None, kinds), None)
    if kind is not None:
        wanted = "prior" if prior else "decoder for text-to-image or inpainting"
        raise CheckpointError(subject, [f"this is {kind}; it is not supported: take a Kandinsky 2.2 {wanted}"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

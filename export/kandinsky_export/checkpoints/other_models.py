"""What is not the part of Kandinsky 2.2 that is wanted: a relative, or a prior in place of a decoder.

It is recognised by its small files alone. So it is refused by name, before gigabytes of weights are fetched, and not
with a fault for every tensor.
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
_DECODERS = tuple(f"KandinskyV22{task}Pipeline" for task in ("", "Img2Img", "Inpaint"))
_PRIORS = tuple(f"KandinskyV22{task}Pipeline" for task in ("Prior", "PriorEmb2Emb"))
# Setting and value in the UNet's config → what it is; ppdiffusers' and diffusers' names are the same.
_UNETS: Mapping[tuple[str, str], str] = {
    ("addition_embed_type", "image_hint"): _CONTROLNET,
    ("addition_embed_type", "text_image"): _OLD.format("decoder"),
    ("encoder_hid_dim_type", "text_image_proj"): _OLD.format("decoder"),
}


def refuse_others(root: Path, subject: str, *, prior: bool) -> None:
    """Refuse a folder whose model_index.json, UNet config or folders are those of something else.

    Files that are missing or cannot be read are left to whoever needs them.

    Args:
        root: the folder; the weights need not be there.
        subject: the checkpoint's name in the error.
        prior: whether a prior is wanted, or a decoder.

    Raises:
        CheckpointError: the one fault that explains all others.
    """
    name = str(_read(root / "model_index.json").get("_class_name"))
    unet = {} if prior else _read(root / "unet" / "config.json")
    kinds = [_PIPELINES.get(name), *(kind for (key, value), kind in _UNETS.items() if unet.get(key) == value)]
    kind = next(filter(None, kinds), None)
    if kind is not None:
        wanted = "prior" if prior else "decoder for text-to-image or inpainting"
        raise CheckpointError(subject, [f"this is {kind}; it is not supported: take a Kandinsky 2.2 {wanted}"])
    decoder_here = (root / "unet").is_dir()
    prior_here = any((root / folder).is_dir() for folder in ("prior", "prior_prior"))
    if prior and not prior_here and (decoder_here or name in _DECODERS):
        raise CheckpointError(subject, ["this is a decoder, and a prior is wanted here (--prior)"])
    if not prior and not decoder_here and (prior_here or name in _PRIORS):
        raise CheckpointError(subject, ["this is a prior, and a decoder is wanted here; give the prior with --prior"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

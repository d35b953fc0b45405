"""The components of a bundle, and how each comes out of a checkpoint's models."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kandinsky_export.graphs.decoder_modules import MoVQDecoderGraph, MoVQEncoderGraph, UNetGraph
from kandinsky_export.graphs.prior_modules import ImageEncoderGraph, PriorGraph, TextEncoderGraph
from kandinsky_export.graphs.signatures import (
    image_encoder_signature,
    movq_decoder_signature,
    movq_encoder_signature,
    prior_signature,
    text_encoder_signature,
    unet_signature,
)
from kandinsky_runtime.bundle.spec import GraphSpec


@dataclass(frozen=True)
class Part:
    """How a component comes out of a checkpoint.

    Attributes:
        model: the checkpoint's model that has it, such as "unet" or "movq".
        module: makes the traceable module from the ppdiffusers model.
        signature: makes the graph's signature from the model's config, given with its defaults.
    """

    model: str
    module: Callable[[Any], Any]
    signature: Callable[[Mapping[str, Any]], GraphSpec]


PARTS: Mapping[str, Part] = {
    "unet": Part("unet", UNetGraph, unet_signature),
    "movq_encoder": Part("movq", MoVQEncoderGraph, movq_encoder_signature),
    "movq_decoder": Part("movq", MoVQDecoderGraph, movq_decoder_signature),
}
PRIOR_PARTS: Mapping[str, Part] = {
    "text_encoder": Part("text_encoder", TextEncoderGraph, text_encoder_signature),
    "image_encoder": Part("image_encoder", ImageEncoderGraph, image_encoder_signature),
    "prior": Part("prior", PriorGraph, prior_signature),
}


def prior_parts(without: Collection[str] = ()) -> dict[str, Part]:
    """`PRIOR_PARTS` less those in `without`."""
    return {name: part for name, part in PRIOR_PARTS.items() if name not in without}

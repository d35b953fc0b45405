"""Inputs, outputs and dynamic axes of every graph: the single source for tracing, conversion and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kandinsky_runtime.spec import GraphSpec, Range, TensorSpec

BATCH, HEIGHT, WIDTH = "batch", "height", "width"


def unet_signature(config: Mapping[str, Any]) -> GraphSpec:
    """`sample` (B, C_in, h, w), `timestep` (B), `image_embeds` (B, E) → `noise_pred` (B, C_out, h, w)."""
    return GraphSpec(
        inputs=(
            TensorSpec("sample", "float32", (BATCH, config["in_channels"], HEIGHT, WIDTH)),
            TensorSpec("timestep", "float32", (BATCH,)),
            TensorSpec("image_embeds", "float32", (BATCH, config["encoder_hid_dim"])),
        ),
        outputs=(TensorSpec("noise_pred", "float32", (BATCH, config["out_channels"], HEIGHT, WIDTH)),),
        ranges=_ranges(2 ** (len(config["block_out_channels"]) - 1)),
    )


def movq_encoder_signature(config: Mapping[str, Any]) -> GraphSpec:
    """`image` (B, 3, H, W) → `latents` (B, C, H/f, W/f), f = 2^(blocks - 1)."""
    factor = movq_factor(config)
    return GraphSpec(
        inputs=(TensorSpec("image", "float32", (BATCH, config["in_channels"], HEIGHT, WIDTH)),),
        outputs=(TensorSpec("latents", "float32", (BATCH, _latent_channels(config), *_scaled(f"{{}}/{factor}"))),),
        ranges=_ranges(factor),
    )


def movq_decoder_signature(config: Mapping[str, Any]) -> GraphSpec:
    """`latents` (B, C, h, w) → `image` (B, 3, f·h, f·w)."""
    return GraphSpec(
        inputs=(TensorSpec("latents", "float32", (BATCH, _latent_channels(config), HEIGHT, WIDTH)),),
        outputs=(
            TensorSpec("image", "float32", (BATCH, config["out_channels"], *_scaled(f"{movq_factor(config)}*{{}}"))),
        ),
        ranges=_ranges(1),
    )


def movq_factor(config: Mapping[str, Any]) -> int:
    """Pixels per latent cell along one axis: every block but the last halves the map."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _latent_channels(config: Mapping[str, Any]) -> int:
    width = config["vq_embed_dim"]
    return int(config["latent_channels"] if width is None else width)


def _scaled(template: str) -> tuple[str, str]:
    return template.format(HEIGHT), template.format(WIDTH)


def _ranges(multiple: int) -> dict[str, Range]:
    side = Range(min=multiple, multiple=multiple)
    return {BATCH: Range(), HEIGHT: side, WIDTH: side}

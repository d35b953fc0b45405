"""Inputs, outputs and dynamic axes of every graph: the single source for tracing, conversion and the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec

BATCH, HEIGHT, WIDTH, TOKENS = "batch", "height", "width", "tokens"


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


def text_encoder_signature(config: Mapping[str, Any]) -> GraphSpec:
    """`input_ids` (B, T), `pool_mask` (B, T) → `text_hidden_states` (B, T, D), `text_embeds` (B, E)."""
    return GraphSpec(
        inputs=(
            TensorSpec("input_ids", "int64", (BATCH, TOKENS)),
            TensorSpec("pool_mask", "float32", (BATCH, TOKENS)),
        ),
        outputs=(
            TensorSpec("text_hidden_states", "float32", (BATCH, TOKENS, config["hidden_size"])),
            TensorSpec("text_embeds", "float32", (BATCH, config["projection_dim"])),
        ),
        ranges=_text_ranges(config["max_position_embeddings"]),
    )


def image_encoder_signature(config: Mapping[str, Any]) -> GraphSpec:
    """`pixel_values` (B, 3, S, S) → `image_embeds` (B, E)."""
    side = config["image_size"]
    return GraphSpec(
        inputs=(TensorSpec("pixel_values", "float32", (BATCH, config["num_channels"], side, side)),),
        outputs=(TensorSpec("image_embeds", "float32", (BATCH, config["projection_dim"])),),
        ranges={BATCH: Range()},
    )


def prior_signature(config: Mapping[str, Any]) -> GraphSpec:
    """`latents` (B, E), `timestep` (B), `text_embeds` (B, E), `text_hidden_states` (B, T, D), `text_mask` (B, T)
    → `predicted_image_embeds` (B, E)."""
    width = config["embedding_dim"]
    text_width = width if config["embedding_proj_dim"] is None else config["embedding_proj_dim"]
    return GraphSpec(
        inputs=(
            TensorSpec("latents", "float32", (BATCH, width)),
            TensorSpec("timestep", "float32", (BATCH,)),
            TensorSpec("text_embeds", "float32", (BATCH, text_width)),
            TensorSpec("text_hidden_states", "float32", (BATCH, TOKENS, width)),
            TensorSpec("text_mask", "float32", (BATCH, TOKENS)),
        ),
        outputs=(TensorSpec("predicted_image_embeds", "float32", (BATCH, width)),),
        ranges=_text_ranges(config["num_embeddings"]),
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


def _text_ranges(most: int) -> dict[str, Range]:
    return {BATCH: Range(), TOKENS: Range(max=most)}

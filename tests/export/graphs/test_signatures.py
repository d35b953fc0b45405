"""Signatures follow the configs: channels, factors and widths are never constants."""

from __future__ import annotations

import pytest

from kandinsky_export.graphs.signatures import (
    movq_decoder_signature,
    movq_encoder_signature,
    movq_factor,
    unet_signature,
)
from kandinsky_export.random_weights.configs import sized
from kandinsky_runtime.bundle.spec import Range


def test_the_published_model() -> None:
    unet, movq = sized("unet", "full"), sized("movq", "full")
    assert [str(spec) for spec in (*unet_signature(unet).inputs, *unet_signature(unet).outputs)] == [
        "sample float32 (batch, 9, height, width)",
        "timestep float32 (batch)",
        "image_embeds float32 (batch, 1280)",
        "noise_pred float32 (batch, 8, height, width)",
    ]
    encoder, decoder = movq_encoder_signature(movq), movq_decoder_signature(movq)
    assert [str(spec) for spec in (*encoder.inputs, *encoder.outputs)] == [
        "image float32 (batch, 3, height, width)",
        "latents float32 (batch, 4, height/8, width/8)",
    ]
    assert [str(spec) for spec in (*decoder.inputs, *decoder.outputs)] == [
        "latents float32 (batch, 4, height, width)",
        "image float32 (batch, 3, 8*height, 8*width)",
    ]


@pytest.mark.parametrize(("blocks", "factor"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16)])
def test_sizes_follow_the_number_of_blocks(blocks: int, factor: int) -> None:
    """Every block but the last halves the map, so sizes must be multiples of the factor and no smaller."""
    config = sized("movq", "tiny") | {"block_out_channels": [32] * blocks}
    assert movq_factor(config) == factor
    encoder, decoder = movq_encoder_signature(config), movq_decoder_signature(config)
    side = 6 * factor
    assert encoder.outputs[0].shape({"batch": 2, "height": side, "width": 2 * side}) == (2, 4, 6, 12)
    assert decoder.outputs[0].shape({"batch": 2, "height": 6, "width": 12}) == (2, 3, side, 2 * side)
    multiples = Range(factor, None, factor)
    assert encoder.ranges == {"batch": Range(), "height": multiples, "width": multiples}
    assert decoder.ranges == {"batch": Range(), "height": Range(), "width": Range()}
    unet = unet_signature(sized("unet", "tiny") | {"block_out_channels": [32] * blocks})
    assert unet.ranges == encoder.ranges


def test_latents_have_the_channels_of_the_codebook() -> None:
    config = sized("movq", "tiny") | {"vq_embed_dim": 6, "latent_channels": 3}
    assert movq_encoder_signature(config).outputs[0].dims[1] == 6
    assert movq_decoder_signature(config).inputs[0].dims[1] == 6
    config["vq_embed_dim"] = None
    assert movq_encoder_signature(config).outputs[0].dims[1] == 3

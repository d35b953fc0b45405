"""ppdiffusers' own blocks behind forwards that trace with dynamic batch, height and width.

`UNet2DConditionModel.forward` branches in Python on the spatial shape, so it cannot be traced with a dynamic one; the
graphs here call the same blocks in the same order. Attention is replaced by processors that normalise the 4-D map
before flattening it: the same arithmetic, and the converter to ONNX knows GroupNorm in 4-D only.

Legend: B batch · C channels · h, w latent height and width · H, W picture height and width · E embedding width
        S = h·w positions · T image tokens · N heads · D head width
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kandinsky_export.vendors import Attention, UNet2DConditionModel, VQModel, paddle

Tensor = Any  # paddle.Tensor; paddle ships no type information
Config = Mapping[str, Any]

# Values that the forwards below rely on: with another one, the traced graph would compute something else.
_UNET_REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "addition_embed_type": ("image",),
    "encoder_hid_dim_type": ("image_proj",),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn",),
    "attention_type": ("default",),
    "data_format": ("NCHW",),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "time_cond_proj_dim": (None,),
    "cross_attention_norm": (None,),
    "center_input_sample": (False, None),
    "class_embeddings_concat": (False, None),
    "dual_cross_attention": (False, None),
}
_UNET_BLOCKS = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
}
_MOVQ_REQUIRED: Mapping[str, tuple[Any, ...]] = {"norm_type": ("group", "spatial")}
_MOVQ_BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}


def unet_config_faults(config: Config) -> list[str]:
    """Every setting of a UNet config, given with its defaults, that `UNetGraph` would not compute faithfully."""
    return [
        *other_values(config, _UNET_REQUIRED),
        *sizes_missing(config, ("in_channels", "out_channels", "encoder_hid_dim")),
        *_block_faults(config, _UNET_BLOCKS),
    ]


def movq_config_faults(config: Config) -> list[str]:
    """Every setting of a MoVQ config, given with its defaults, that the MoVQ graphs would not compute faithfully."""
    return [
        *other_values(config, _MOVQ_REQUIRED),
        *sizes_missing(config, ("in_channels", "out_channels", "latent_channels")),
        *_block_faults(config, _MOVQ_BLOCKS),
    ]


def other_values(config: Config, required: Mapping[str, tuple[Any, ...]]) -> list[str]:
    """A fault for each setting whose value is none of those that `required` has for it."""
    return [
        f"`{key}` is {config[key]!r}; supported: {', '.join(map(repr, allowed))}"
        for key, allowed in required.items()
        if config[key] not in allowed
    ]


def sizes_missing(config: Config, keys: Iterable[str]) -> list[str]:
    """A fault for each of `keys` that is no size."""
    return [f"`{key}` is {config[key]!r}; it must be a size of 1 or more" for key in keys if not is_size(config[key])]


def _block_faults(config: Config, supported: Mapping[str, tuple[str, ...]]) -> list[str]:
    channels, groups = config["block_out_channels"], config["norm_num_groups"]
    if not isinstance(channels, list | tuple) or not channels or not all(map(is_size, channels)):
        return [f"`block_out_channels` is {channels!r}; it must list the channels of each block"]
    faults = []
    if not is_size(groups) or any(size % groups for size in channels):
        faults.append(f"`norm_num_groups` is {groups!r}; it must divide each of `block_out_channels`, {channels}")
    for key, allowed in supported.items():
        names = config[key]
        if not isinstance(names, list | tuple) or len(names) != len(channels):
            faults.append(f"`{key}` is {names!r}; it must name {len(channels)} blocks, one for each of {channels}")
        elif unknown := dict.fromkeys(str(name) for name in names if name not in allowed):
            faults.append(f"`{key}` has {', '.join(unknown)}; supported: {', '.join(allowed)}")
    return faults


def is_size(value: Any) -> bool:
    """Whether a setting is a whole number of 1 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


class AddedKVAttention:
    """Attention of the UNet: keys and values of the image tokens go before those of the feature map."""

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: None = None
    ) -> Tensor:
        residual = hidden_states  # (B, C, h, w)
        tokens = _normalised_tokens(attn.group_norm(hidden_states))  # (B, S, C)
        query = attn.head_to_batch_dim(attn.to_q(tokens))  # (B, N, S, D)
        key = attn.head_to_batch_dim(attn.add_k_proj(encoder_hidden_states))  # (B, N, T, D)
        value = attn.head_to_batch_dim(attn.add_v_proj(encoder_hidden_states))
        if not attn.only_cross_attention:
            key = paddle.concat([key, attn.head_to_batch_dim(attn.to_k(tokens))], axis=2)  # (B, N, T + S, D)
            value = paddle.concat([value, attn.head_to_batch_dim(attn.to_v(tokens))], axis=2)
        return _attend(attn, query, key, value, like=residual) + residual


class SpatialAttention:
    """Self-attention of MoVQ, normalised by the latents in the decoder (`temb`) and by groups in the encoder."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,  # for LoRA layers, of which there are none
    ) -> Tensor:
        residual = hidden_states  # (B, C, h, w)
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states)
        tokens = _normalised_tokens(hidden_states)  # (B, S, C)
        query = attn.head_to_batch_dim(attn.to_q(tokens))  # (B, N, S, D)
        key = attn.head_to_batch_dim(attn.to_k(tokens))
        value = attn.head_to_batch_dim(attn.to_v(tokens))
        out = _attend(attn, query, key, value, like=residual)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor if attn.rescale_output_factor != 1 else out


def _normalised_tokens(feature_map: Tensor) -> Tensor:
    return feature_map.flatten(2).transpose([0, 2, 1])  # (B, C, h, w) -> (B, S, C)


def _attend(attn: Attention, query: Tensor, key: Tensor, value: Tensor, *, like: Tensor) -> Tensor:
    context = paddle.matmul(attn.get_attention_scores(query, key), value)  # (B, N, S, D)
    out = attn.to_out[0](attn.batch_to_head_dim(context))  # (B, S, C)
    return out.transpose([0, 2, 1]).reshape(paddle.shape(like))  # (B, C, h, w)


class UNetGraph(paddle.nn.Layer):  # type: ignore[misc]
    """`sample` (B, C_in, h, w), `timestep` (B), `image_embeds` (B, E) → `noise_pred` (B, C_out, h, w), all float32."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        model.set_attn_processor(AddedKVAttention())
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, image_embeds: Tensor) -> Tensor:
        model = self.model
        time_embeds = model.time_embedding(model.time_proj(timestep)) + model.add_embedding(image_embeds)
        if model.time_embed_act is not None:
            time_embeds = model.time_embed_act(time_embeds)
        image_tokens = model.encoder_hid_proj(image_embeds)  # (B, T, cross_attention_dim)

        hidden = model.conv_in(sample)
        skips = [hidden]
        for block in model.down_blocks:
            hidden, states = block(hidden_states=hidden, temb=time_embeds, **_tokens_for(block, image_tokens))
            skips.extend(states)
        hidden = model.mid_block(hidden, time_embeds, **_tokens_for(model.mid_block, image_tokens))
        for block in model.up_blocks:
            count = len(block.resnets)
            hidden = block(
                hidden_states=hidden,
                temb=time_embeds,
                res_hidden_states_tuple=tuple(skips[-count:]),
                **_tokens_for(block, image_tokens),
            )
            del skips[-count:]
        return model.conv_out(model.conv_act(model.conv_norm_out(hidden)))


def _tokens_for(block: Any, image_tokens: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": image_tokens} if getattr(block, "has_cross_attention", False) else {}


class MoVQEncoderGraph(paddle.nn.Layer):  # type: ignore[misc]
    """`image` (B, 3, H, W) in [-1, 1] → `latents` (B, C, H/f, W/f), not quantised, not scaled."""

    def __init__(self, model: VQModel) -> None:
        super().__init__()
        _use_spatial_attention(model.encoder)
        self.encoder = model.encoder
        self.quant_conv = model.quant_conv

    def forward(self, image: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(image))


class MoVQDecoderGraph(paddle.nn.Layer):  # type: ignore[misc]
    """`latents` (B, C, h, w) → `image` (B, 3, f·h, f·w) about [-1, 1]; the codebook takes no part."""

    def __init__(self, model: VQModel) -> None:
        super().__init__()
        _use_spatial_attention(model.decoder)
        self.post_quant_conv = model.post_quant_conv
        self.decoder = model.decoder
        self.spatial = model.config.norm_type == "spatial"

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(latents), latents if self.spatial else None)


def _use_spatial_attention(half: paddle.nn.Layer) -> None:
    for layer in half.sublayers():
        if isinstance(layer, Attention):
            layer.set_processor(SpatialAttention())

"""The layers of ppdiffusers' CLIP encoders and prior behind forwards that trace with dynamic batch and text length.

Their own forwards put Python numbers for the batch and the length into every reshape, and the prior's adds positions
for exactly 77 text tokens. The graphs here take as many tokens as a text has. That is exact: attention is causal, so
nothing before the padding ever sees it, and the four tokens that the prior puts behind the text are kept from looking
at it by `text_mask`; they keep their own positions.

Legend: B batch · T text tokens · P the most of them · K patches of a picture, and one class token · D width of the
        layer at hand · E embedding width · N heads
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kandinsky_export.graphs.decoder_modules import is_size, other_values, sizes_missing
from kandinsky_export.vendors import (
    Attention,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PriorTransformer,
    paddle,
)

Tensor = Any  # paddle.Tensor; paddle ships no type information
Config = Mapping[str, Any]

# Added to the scores of tokens that must not be seen: their weights are exactly 0, in half precision, too.
MASKED = -1e4

# Values that the forwards below rely on: with another one, the traced graph would compute something else.
_CLIP_ACTIVATIONS = ("gelu", "quick_gelu")
_CLIP_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "projection_dim")
_PRIOR_REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "added_emb_type": ("prd",),
    "additional_embeddings": (4,),
    "encoder_hid_proj_type": ("linear",),
    "embedding_proj_norm_type": (None, "layer"),
    "norm_in_type": (None, "layer"),
}
_PRIOR_SIZES = ("num_attention_heads", "attention_head_dim", "num_layers", "embedding_dim", "num_embeddings")


def text_encoder_config_faults(config: Config) -> list[str]:
    """Every setting of a text encoder's config, given with its defaults, that `TextEncoderGraph` cannot compute."""
    return _clip_faults(config, (*_CLIP_SIZES, "vocab_size", "max_position_embeddings"))


def image_encoder_config_faults(config: Config) -> list[str]:
    """Every setting of an image encoder's config, given with its defaults, that `ImageEncoderGraph` cannot compute."""
    faults = _clip_faults(config, (*_CLIP_SIZES, "image_size", "patch_size", "num_channels"))
    if not faults and config["image_size"] < config["patch_size"]:
        faults.append(f"`image_size` is {config['image_size']}; it must hold a patch of {config['patch_size']}")
    return faults


def prior_config_faults(config: Config) -> list[str]:
    """Every setting of a prior's config, given with its defaults, that `PriorGraph` would not compute faithfully."""
    faults = [*other_values(config, _PRIOR_REQUIRED), *sizes_missing(config, _PRIOR_SIZES)]
    faults += [
        f"`{key}` is {config[key]!r}; it must be null or a size of 1 or more"
        for key in ("clip_embed_dim", "embedding_proj_dim", "time_embed_dim")
        if config[key] is not None and not is_size(config[key])
    ]
    if not faults and config["clip_embed_dim"] not in (None, config["embedding_dim"]):
        faults.append(
            f"`clip_embed_dim` is {config['clip_embed_dim']}; the prior reads what it predicts, so it must be"
            f" `embedding_dim`, {config['embedding_dim']}"
        )
    return faults


def _clip_faults(config: Config, sizes: tuple[str, ...]) -> list[str]:
    faults = [*other_values(config, {"hidden_act": _CLIP_ACTIVATIONS}), *sizes_missing(config, sizes)]
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if is_size(width) and is_size(heads) and width % heads:
        faults.append(f"`num_attention_heads` is {heads}; it must divide `hidden_size`, {width}")
    return faults


class TextEncoderGraph(paddle.nn.Layer):  # type: ignore[misc]
    """`input_ids` (B, T), `pool_mask` (B, T) → `text_hidden_states` (B, T, D), `text_embeds` (B, E).

    `pool_mask` is 1 at the token whose state is projected to `text_embeds`, and 0 elsewhere: the end of the text.
    """

    def __init__(self, model: CLIPTextModelWithProjection) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.text_projection = model.text_projection

    def forward(self, input_ids: Tensor, pool_mask: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = self.text_model.embeddings
        tokens = paddle.shape(input_ids)[1]
        positions = embeddings.position_embedding.weight[:tokens].unsqueeze(0)  # (1, T, D)
        hidden = embeddings.token_embedding(input_ids) + positions  # (B, T, D)
        mask = causal_mask(tokens).unsqueeze(0)  # (1, 1, T, T)
        for layer in self.text_model.encoder.layers:
            hidden = clip_layer(layer, hidden, mask)
        hidden = self.text_model.final_layer_norm(hidden)
        pooled = paddle.matmul(pool_mask.unsqueeze(1), hidden).squeeze(1)  # (B, D)
        return hidden, self.text_projection(pooled)


class ImageEncoderGraph(paddle.nn.Layer):  # type: ignore[misc]
    """`pixel_values` (B, 3, S, S), normalised → `image_embeds` (B, E)."""

    def __init__(self, model: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        hidden = self.embed(pixel_values)
        for layer in self.vision_model.encoder.layers:
            hidden = clip_layer(layer, hidden)
        return self.project(hidden)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """What goes into the first layer, (B, K, D)."""
        embeddings = self.vision_model.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose([0, 2, 1])  # (B, K - 1, D)
        first = paddle.zeros_like(patches[:, :1]) + embeddings.class_embedding  # (B, 1, D)
        hidden = paddle.concat([first, patches], axis=1) + embeddings.position_embedding.weight.unsqueeze(0)
        return self.vision_model.pre_layrnorm(hidden)

    def project(self, hidden: Tensor) -> Tensor:
        """What comes out of the last layer, (B, K, D), as `image_embeds`: the class token's state."""
        return self.visual_projection(self.vision_model.post_layernorm(hidden[:, 0]))


class PriorGraph(paddle.nn.Layer):  # type: ignore[misc]
    """One step of the prior: its estimate of the clean embeddings, from noisy ones.

    `latents` (B, E), `timestep` (B), `text_embeds` (B, E), `text_hidden_states` (B, T, D), `text_mask` (B, T), 1 for
    text and 0 for padding → `predicted_image_embeds` (B, E).
    """

    def __init__(self, model: PriorTransformer) -> None:
        super().__init__()
        model.set_attn_processor(TokenAttention())
        self.model = model

    def forward(
        self, latents: Tensor, timestep: Tensor, text_embeds: Tensor, text_hidden_states: Tensor, text_mask: Tensor
    ) -> Tensor:
        model = self.model
        time = model.time_embedding(model.time_proj(timestep))  # (B, D)
        if model.embedding_proj_norm is not None:
            text_embeds = model.embedding_proj_norm(text_embeds)
        text = model.encoder_hidden_states_proj(text_hidden_states)  # (B, T, D)
        prd = paddle.zeros_like(time) + model.prd_embedding[:, 0]
        added = [model.embedding_proj(text_embeds), time, model.proj_in(latents), prd]
        hidden = paddle.concat([text, *(item.unsqueeze(1) for item in added)], axis=1)  # (B, T + 4, D)

        tokens = paddle.shape(text)[1]
        most = model.config.num_embeddings
        positions = model.positional_embedding  # (1, P + 4, D)
        hidden = hidden + paddle.concat([positions[:, :tokens], positions[:, most:]], axis=1)

        seen = paddle.zeros_like(text_mask[:, :1])
        padding = paddle.concat([1 - text_mask, seen, seen, seen, seen], axis=1)  # (B, T + 4)
        causal = causal_mask(paddle.shape(hidden)[1]).unsqueeze(0)  # (1, 1, T + 4, T + 4)
        mask = causal + (padding * MASKED).unsqueeze([1, 2])  # (B, 1, T + 4, T + 4)
        if model.norm_in is not None:
            hidden = model.norm_in(hidden)
        for block in model.transformer_blocks:
            hidden = block(hidden, attention_mask=mask)
        return model.proj_to_clip_embeddings(model.norm_out(hidden)[:, -1])


class TokenAttention:
    """Self-attention of the prior, with a mask that is added to the scores of all heads."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,  # (B, T, D)
        encoder_hidden_states: None = None,
        attention_mask: Tensor | None = None,  # (B, 1, T, T)
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))  # (B, N, T, D / N)
        key = attn.head_to_batch_dim(attn.to_k(hidden_states))
        value = attn.head_to_batch_dim(attn.to_v(hidden_states))
        context = paddle.matmul(attn.get_attention_scores(query, key, attention_mask), value)
        return attn.to_out[0](attn.batch_to_head_dim(context))


def clip_layer(layer: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """One layer of a CLIP encoder, (B, T, D) → (B, T, D); `mask` is added to the scores of all heads."""
    hidden = hidden + _clip_attention(layer.self_attn, layer.layer_norm1(hidden), mask)
    return hidden + layer.mlp(layer.layer_norm2(hidden))


def _clip_attention(attention: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    def heads(states: Tensor) -> Tensor:
        return states.reshape([0, 0, attention.num_heads, attention.head_dim]).transpose([0, 2, 1, 3])

    query = heads(attention.q_proj(hidden) * attention.scale)  # (B, N, T, D / N)
    scores = paddle.matmul(query, heads(attention.k_proj(hidden)), transpose_y=True)  # (B, N, T, T)
    if mask is not None:
        scores = scores + mask
    context = paddle.matmul(paddle.nn.functional.softmax(scores, axis=-1), heads(attention.v_proj(hidden)))
    return attention.out_proj(context.transpose([0, 2, 1, 3]).reshape([0, 0, attention.embed_dim]))


def causal_mask(tokens: Tensor) -> Tensor:
    """(1, T, T): `MASKED` for every later token."""
    positions = paddle.arange(tokens)
    later = positions.unsqueeze(0) > positions.unsqueeze(1)
    return later.cast("float32").unsqueeze(0) * MASKED

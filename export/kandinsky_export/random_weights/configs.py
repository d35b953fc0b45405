"""The published configs of `kandinsky-2-2-decoder-inpaint` and `kandinsky-2-2-prior`, and tiny models built alike."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from kandinsky_runtime.errors import UsageError

Config = dict[str, Any]

SIZES = ("tiny", "full")

# Four levels like the published model, so that sizes and factors are the same; 1/400 of its parameters.
_TINY: dict[str, Config] = {
    "unet": {
        "block_out_channels": [32, 64, 64, 96],
        "attention_head_dim": 16,
        "norm_num_groups": 16,
        "cross_attention_dim": 32,
        "encoder_hid_dim": 32,
        "layers_per_block": 1,
        "sample_size": 8,
    },
    "movq": {
        "block_out_channels": [32, 32, 64, 64],
        "layers_per_block": 1,
        "num_vq_embeddings": 64,
        "sample_size": 8,
    },
    "text_encoder": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "projection_dim": 32,
    },
    "image_encoder": {
        "hidden_size": 48,
        "image_size": 56,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "projection_dim": 32,
    },
    "prior": {"attention_head_dim": 16, "embedding_dim": 32, "num_attention_heads": 4, "num_layers": 3},
    "image_processor": {"crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 56}},
}

DECODERS = ("inpaint", "plain")

# In what `kandinsky-2-2-decoder` differs from the inpainting decoder.
_PLAIN: dict[str, Config] = {
    "unet": {"in_channels": 4},
    "scheduler": {"clip_sample": True},
    "model_index": {"_class_name": "KandinskyV22Pipeline"},
}


def published(name: str) -> Config:
    """A published config, by the name of its file in `configs`."""
    file = resources.files("kandinsky_export.random_weights") / "configs" / f"{name}.json"
    config: Config = json.loads(file.read_text(encoding="utf-8"))
    return config


def sized(name: str, size: str, decoder: str = "inpaint") -> Config:
    """The config called `name` at `size`, one of `SIZES`, of a decoder, one of `DECODERS`.

    Raises:
        UsageError: there is no such size or decoder.
    """
    for what, value, choices in (("size", size, SIZES), ("decoder", decoder, DECODERS)):
        if value not in choices:
            raise UsageError(f"there is no {what} {value!r}; choose from {', '.join(choices)}")
    smaller = _TINY.get(name, {}) if size == "tiny" else {}
    return published(name) | smaller | (_PLAIN.get(name, {}) if decoder == "plain" else {})

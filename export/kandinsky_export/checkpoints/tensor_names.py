"""Older names of a model's tensors, and the current ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from itertools import takewhile

# diffusers before 0.17 named the parts of an attention block so.
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_ATTENTION = re.compile(rf"(attentions\.\d+)\.({'|'.join(_OLD_ATTENTION_NAMES)})\.(weight|bias)$")

# PaddleNLP's CLIP, which ppdiffusers used before it had its own. The projections were bare parameters, [in, out].
_PADDLENLP_PREFIXES = {
    "text_model.token_embedding.": "text_model.embeddings.token_embedding.",
    "text_model.positional_embedding.": "text_model.embeddings.position_embedding.",
    "text_model.ln_final.": "text_model.final_layer_norm.",
    "vision_model.class_embedding": "vision_model.embeddings.class_embedding",
    "vision_model.conv1.": "vision_model.embeddings.patch_embedding.",
    "vision_model.positional_embedding.": "vision_model.embeddings.position_embedding.",
    "vision_model.ln_pre.": "vision_model.pre_layrnorm.",
    "vision_model.ln_post.": "vision_model.post_layernorm.",
    "text_projection": "text_projection.weight",
    "vision_projection": "visual_projection.weight",
}
_PADDLENLP_LAYER_PARTS = {"linear1": "mlp.fc1", "linear2": "mlp.fc2", "norm1": "layer_norm1", "norm2": "layer_norm2"}
_PADDLENLP_LAYER = re.compile(r"(text_model|vision_model)\.transformer\.layers\.(\d+)\.(.+)\.(weight|bias)$")

# The numbers 0, 1, 2 … that transformers before 4.31 stored with the weights.
_POSITION_IDS = re.compile(r"(text_model|vision_model)\.embeddings\.position_ids$")


def current_names(stored: Iterable[str], expected: Container[str]) -> dict[str, str]:
    """Stored name → the name that the model expects, for every tensor of the model.

    A name that the model expects, or that no rule leads to an expected one, stays as it is.
    """
    names = [name for name in stored if not _POSITION_IDS.fullmatch(name)]
    taken = set(names)
    return {name: name if name in expected else _renamed(name, expected, taken) for name in names}


def wrapper_of(stored: Iterable[str], expected: Container[str]) -> str:
    """What stands before every name and is no part of it, such as `module.` or `_orig_mod.`; empty if nothing does."""
    names = sorted(stored)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(names[0], names[-1], strict=False)) if len(names) > 1 else ()
    common = "".join(letter for letter, _ in same)  # of the first and the last in order, and so of all
    for dot in (i + 1 for i, letter in enumerate(common) if letter == "."):
        inside = current_names((name[dot:] for name in names), expected).values()
        if sum(name in expected for name in inside) > len(names) / 2:
            return common[:dot]
    return ""


def _renamed(name: str, expected: Container[str], taken: Container[str]) -> str:
    candidates = (rule(name) for rule in _RULES)
    return next((new for new in candidates if new in expected and new not in taken), name)


def _attention(name: str) -> str:
    return _OLD_ATTENTION.sub(lambda m: f"{m[1]}.{_OLD_ATTENTION_NAMES[m[2]]}.{m[3]}", name)


def _paddlenlp(name: str) -> str:
    if match := _PADDLENLP_LAYER.fullmatch(name):
        model, layer, part, kind = match.groups()
        return f"{model}.encoder.layers.{layer}.{_PADDLENLP_LAYER_PARTS.get(part, part)}.{kind}"
    for old, new in _PADDLENLP_PREFIXES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


_RULES: tuple[Callable[[str], str], ...] = (_attention, _paddlenlp)

"""Eager ppdiffusers as the oracle of a prior's graphs: its own models and forwards, at the full text length.

The graphs take a text without its padding. Here each text is padded to the end again and the models are given what
the reference pipeline gives them: the text encoder no mask, the prior the tokenizer's. So what is compared covers both
the arithmetic and the claim that padding changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.graphs.architecture import build_models, expected_tensors, fill
from kandinsky_export.graphs.parts import PRIOR_PARTS
from kandinsky_export.vendors import paddle
from kandinsky_runtime.bundle.spec import GraphSpec

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

_LARGEST_TOKEN = 2  # an `eos_token_id` that stands for the position of the largest token, as transformers has it
_SEED = 1
_SHAPES = ((1, 1), (2, 2), (1, 9), (3, 24), (2, None))  # batch, text tokens; None for as many as there may be


class PriorReference:
    """A prior's models in eager ppdiffusers, each in memory only while it runs."""

    def __init__(self, checkpoint: PriorCheckpoint) -> None:
        """Check the checkpoint; nothing is loaded yet.

        Raises:
            CheckpointError: the checkpoint cannot be used.
        """
        self._configs = {name: item.config for name, item in checkpoint.components.items()}
        self._subject = str(checkpoint.root)
        models = build_models(self._configs, self._subject)
        self._complete = {name: model.config for name, model in models.items()}
        self._tensors = checkpoint.tensors({name: expected_tensors(model) for name, model in models.items()})

    def config(self, model: str) -> Mapping[str, Any]:
        """The config of a model, with its defaults."""
        config: Mapping[str, Any] = self._complete[model]
        return config

    def signature(self, component: str) -> GraphSpec:
        """The signature of a component's graph."""
        part = PRIOR_PARTS[component]
        return part.signature(self.config(part.model))

    def feeds(self, component: str) -> list[dict[str, Array]]:
        """Random inputs of a component's graph: several batches, several text lengths, padding within a batch.

        The first picture is an empty one.
        """
        spec, rng = self.signature(component), np.random.default_rng(_SEED)
        most = spec.ranges["tokens"].max or 1 if "tokens" in spec.ranges else 1
        sizes = dict.fromkeys((batch, most if length is None else min(length, most)) for batch, length in _SHAPES)
        made = [self._inputs(component, spec, batch, tokens, rng) for batch, tokens in sizes]
        if component == "image_encoder":
            made[0]["pixel_values"][:] = 0
        return made

    def run(self, component: str, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
        """The outputs of a component for each of `feeds`, by the graph's names, float32."""
        name = PRIOR_PARTS[component].model
        model = build_models({name: self._configs[name]}, self._subject)[name]
        fill(model, self._tensors[name])
        call = {"text_encoder": _encode_text, "image_encoder": _encode_picture, "prior": _predict}[component]
        with paddle.no_grad():
            return [call(model, item) for item in feeds]

    def _inputs(
        self, component: str, spec: GraphSpec, batch: int, tokens: int, rng: np.random.Generator
    ) -> dict[str, Array]:
        """Normal numbers; the first text has no padding, and each further one has more."""
        shapes = {item.name: item.shape({"batch": batch, "tokens": tokens}) for item in spec.inputs}
        made: dict[str, Array] = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
        lengths = np.maximum(1, tokens - 3 * np.arange(batch))[:, None]
        places = np.arange(tokens)[None]
        if component == "prior":
            made["timestep"] = rng.integers(0, 1000, batch).astype(np.float32)
            made["text_mask"] = (places < lengths).astype(np.float32)
        if component == "text_encoder":
            end = self._end_of_text()
            ids = rng.integers(0, self.config("text_encoder")["vocab_size"] - 1, (batch, tokens))
            ids += ids >= end  # so that the end is nowhere else
            made["input_ids"] = np.where(places < lengths - 1, ids, end)
            made["pool_mask"] = (places == lengths - 1).astype(np.float32)
        return made

    def _end_of_text(self) -> int:
        config = self.config("text_encoder")
        end: int = config["eos_token_id"]
        return int(config["vocab_size"]) - 1 if end == _LARGEST_TOKEN else end


def _encode_text(model: Any, feeds: Feeds) -> dict[str, Array]:
    ids = feeds["input_ids"]  # the last is the end of the text, or the padding, which is the same
    tokens = ids.shape[1]
    missing = model.config["max_position_embeddings"] - tokens
    padded = np.pad(ids, ((0, 0), (0, missing)), constant_values=ids[0, -1])
    output = model(paddle.to_tensor(padded))
    return {
        "text_hidden_states": output.last_hidden_state.numpy()[:, :tokens],
        "text_embeds": output.text_embeds.numpy(),
    }


def _encode_picture(model: Any, feeds: Feeds) -> dict[str, Array]:
    return {"image_embeds": model(paddle.to_tensor(feeds["pixel_values"])).image_embeds.numpy()}


def _predict(model: Any, feeds: Feeds) -> dict[str, Array]:
    states, mask = feeds["text_hidden_states"], feeds["text_mask"]
    missing = model.config["num_embeddings"] - states.shape[1]
    noise = np.random.default_rng(_SEED).standard_normal((len(states), missing, states.shape[2]), np.float32)
    output = model(
        paddle.to_tensor(feeds["latents"]),
        timestep=paddle.to_tensor(feeds["timestep"]),
        proj_embedding=paddle.to_tensor(feeds["text_embeds"]),
        encoder_hidden_states=paddle.to_tensor(np.concatenate([states, noise], axis=1)),
        attention_mask=paddle.to_tensor(np.pad(mask, ((0, 0), (0, missing)))),
    )
    return {"predicted_image_embeds": output.predicted_image_embedding.numpy()}

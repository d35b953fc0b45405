"""The parts of a prior in a bundle besides its graphs: the tokenizer's files, its configs, and a few arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.checkpoints.tokenizer_files import FILES
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.prior_modules import ImageEncoderGraph, clip_layer
from kandinsky_export.vendors import paddle
from kandinsky_runtime.bundle.manifest import PICTURE_PROMPT, PROMPT, PriorEntry
from kandinsky_runtime.errors import BundleError, SchedulerError
from kandinsky_runtime.prior.clip_image import ClipImageProcessor
from kandinsky_runtime.progress import ProgressBar
from kandinsky_runtime.sampling import schedulers

Array = npt.NDArray[np.float32]
Thunks = Mapping[str, Callable[[], Array]]
Models = Mapping[str, Any]

CONSTANTS = "prior_constants.npz"
_TOKENIZER = "tokenizer"
_SCHEDULER = "UnCLIPScheduler"


def check_prior(prior: PriorCheckpoint, models: Models) -> None:
    """Refuse a prior whose models, tokenizer and scheduler do not work together and with the decoder.

    Args:
        prior: an opened prior.
        models: built from its configs and from the decoder's.

    Raises:
        CheckpointError: lists everything that does not fit.
    """
    faults = [*_width_faults(models), *_text_faults(prior, models), *_picture_faults(prior, models)]
    try:
        schedulers.load(prior.scheduler)
        if (name := prior.scheduler.get("_class_name")) != _SCHEDULER:
            faults.append(f"its scheduler is {name}; a Kandinsky 2.2 prior has {_SCHEDULER}")
    except SchedulerError as error:
        faults.append(str(error))
    if faults:
        raise CheckpointError(str(prior.root), faults)


def write_prior_entry(
    folder: Path, prior: PriorCheckpoint, models: Models, tensors: Mapping[str, Thunks], *, progress: bool = False
) -> PriorEntry:
    """Write the tokenizer's files and the constants into a bundle's folder.

    Args:
        folder: of the bundle.
        prior: an opened prior.
        models: built from its configs.
        tensors: its weights.
        progress: show a bar.

    Returns:
        The manifest's entry.

    Raises:
        CheckpointError: a tensor cannot be read any more, or is not finite.
    """
    (folder / _TOKENIZER).mkdir()
    prior.tokenizer.write(folder / _TOKENIZER)
    weights = tensors["prior"]
    np.savez(
        folder / CONSTANTS,
        clip_mean=weights["clip_mean"](),
        clip_std=weights["clip_std"](),
        negative_image_embeds=empty_picture_embeds(models["image_encoder"], tensors["image_encoder"], progress),
    )
    return PriorEntry(
        scheduler=prior.scheduler,
        tokenizer={role: f"{_TOKENIZER}/{name}" for role, name in FILES.items()},
        tokenizer_config=prior.tokenizer.config,
        eos_token_id=models["text_encoder"].config["eos_token_id"],
        image_processor=prior.image_processor,
        constants=CONSTANTS,
    )


def prior_tasks(components: Collection[str]) -> tuple[str, ...]:
    """The tasks of a bundle with these components: embeddings of prompts, embeddings of pictures."""
    needs = {PROMPT: {"text_encoder", "prior"}, PICTURE_PROMPT: {"image_encoder"}}
    return tuple(task for task, parts in needs.items() if parts <= set(components))


def empty_picture_embeds(model: Any, tensors: Thunks, progress: bool = False) -> Array:
    """The image encoder's output for `pixel_values` that are all zero, (1, E).

    The first layer takes the values of each layer in turn, so that memory holds one layer and not the model.

    Args:
        model: an image encoder whose parameters are declared; those outside of its layers get their values.
        tensors: its weights.
        progress: show a bar.
    """
    graph, config = ImageEncoderGraph(model), model.config
    layers = model.vision_model.encoder.layers
    inside = "vision_model.encoder.layers."
    for name, parameter in model.named_parameters():
        if not name.startswith(inside):
            parameter.set_value(tensors[name]())
    with paddle.no_grad():
        hidden = graph.embed(paddle.zeros([1, config["num_channels"], config["image_size"], config["image_size"]]))
        for i in ProgressBar(
            range(len(layers)), desc="embeddings of an empty picture", leave=False, disable=not progress
        ):
            for name, parameter in layers[0].named_parameters():
                parameter.set_value(tensors[f"{inside}{i}.{name}"]())
            hidden = clip_layer(layers[0], hidden)
        return np.asarray(graph.project(hidden).numpy(), np.float32)


def _width_faults(models: Models) -> Iterator[str]:
    prior, text, image = (models[name].config for name in ("prior", "text_encoder", "image_encoder"))
    width = prior["embedding_dim"]
    text_width = width if prior["embedding_proj_dim"] is None else prior["embedding_proj_dim"]
    wanted = models["unet"].config["encoder_hid_dim"]
    if width != wanted:
        yield f"it makes embeddings of width {width}; the decoder takes {wanted}: take the prior of this decoder"
    for name, setting, got, expected in (
        ("image_encoder", "projection_dim", image["projection_dim"], width),
        ("text_encoder", "hidden_size", text["hidden_size"], width),
        ("text_encoder", "projection_dim", text["projection_dim"], text_width),
    ):
        if got != expected:
            yield f"{name} config: `{setting}` is {got}; the prior takes {expected}"


def _text_faults(prior: PriorCheckpoint, models: Models) -> Iterator[str]:
    text, length = models["text_encoder"].config, models["prior"].config["num_embeddings"]
    if (longest := prior.tokenizer.config["model_max_length"]) != length:
        yield f"tokenizer: `model_max_length` is {longest}; the prior takes texts of {length} tokens"
    if text["max_position_embeddings"] < length:
        yield (
            f"text_encoder config: `max_position_embeddings` is {text['max_position_embeddings']};"
            f" the prior takes texts of {length} tokens"
        )
    if prior.tokenizer.size > text["vocab_size"]:
        yield f"tokenizer: it has {prior.tokenizer.size} tokens; the text encoder takes {text['vocab_size']}"
    if not isinstance(text["eos_token_id"], int) or text["eos_token_id"] < 0:
        yield f"text_encoder config: `eos_token_id` is {text['eos_token_id']!r}; expected a whole number of 0 or more"


def _picture_faults(prior: PriorCheckpoint, models: Models) -> Iterator[str]:
    image = models["image_encoder"].config
    side = image["image_size"]
    try:
        crop = ClipImageProcessor.from_config(prior.image_processor).crop
    except BundleError as error:
        yield from error.faults
    else:
        if crop != side:
            yield f"image_processor: `crop_size` is {crop}; the image encoder takes pictures of {side} x {side}"
    if image["num_channels"] != 3:
        yield f"image_encoder config: `num_channels` is {image['num_channels']}; a picture has 3"

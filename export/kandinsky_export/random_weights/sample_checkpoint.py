"""Checkpoints with random weights (seeded), in both forms, with the published names, shapes and dtypes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.checkpoint import MODELS, Expected, Form
from kandinsky_export.checkpoints.pdparams_writer import write_pdparams
from kandinsky_export.folders import new_folder
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.random_weights.configs import Config, sized
from kandinsky_export.random_weights.seeded import seeded_embeds, seeded_tensor
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.progress import ProgressBar

Array = npt.NDArray[np.float32]
Tensors = Mapping[str, tuple[tuple[int, ...], Callable[[], Array]]]

INDEX = "model_index.json"
EMBEDS = "image_embeds.npz"


def write_sample_checkpoint(
    out: Path,
    *,
    size: str = "tiny",
    decoder: str = "inpaint",
    seed: int = 0,
    form: Form = "ppdiffusers",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Write a checkpoint whose values depend on (seed, tensor name) only, and embeddings that fit it.

    Args:
        out: the new folder.
        size: "tiny" or "full".
        decoder: "inpaint", or "plain" for text-to-image and image-to-image.
        seed: of the values.
        form: "ppdiffusers" (.pdparams) or "diffusers" (.safetensors).
        changes: settings that differ from the sized configs, by "unet", "movq" and "scheduler".
        overwrite: replace `out`.
        progress: show a bar.

    Raises:
        CheckpointError: ppdiffusers cannot build such a model.
        UsageError: there is no such size, decoder or form, or `out` is invalid.
        ExportError: `out` cannot be written.
    """
    if form not in get_args(Form):
        raise UsageError(f"there is no form {form!r}; choose from {', '.join(get_args(Form))}")
    configs = {
        name: sized(name, size, decoder) | dict((changes or {}).get(name, {})) for name in (*MODELS, "scheduler")
    }
    built = build_models({name: configs[name] for name in MODELS}, f"{size} checkpoint")
    models = {name: expected_tensors(model) for name, model in built.items()}
    total = sum(4 * math.prod(item.shape) for tensors in models.values() for item in tensors.values())
    with (
        new_folder(out, marker=INDEX, overwrite=overwrite) as folder,
        ProgressBar(total=total, unit="B", unit_scale=True, desc="writing weights", disable=not progress) as bar,
    ):
        for name, expected in models.items():
            (folder / name).mkdir()
            write_json(folder / name / "config.json", configs[name])
            write_weights(folder / name, seeded_weights(seed, name, expected, form, bar), form)
        (folder / "scheduler").mkdir()
        write_json(folder / "scheduler" / "scheduler_config.json", configs["scheduler"])
        write_json(folder / INDEX, model_index(sized("model_index", "full", decoder), form))
        np.savez(folder / EMBEDS, **seeded_embeds(seed, built["unet"].config["encoder_hid_dim"]))


def model_index(index: Config, form: Form) -> Config:
    """An index of diffusers' form, with the libraries that read `form`."""
    if form == "diffusers":
        return index
    libraries = {"diffusers": "ppdiffusers", "transformers": "ppdiffusers.transformers"}
    return {key: [libraries[value[0]], value[1]] if isinstance(value, list) else value for key, value in index.items()}


def seeded_weights(
    seed: int, component: str, expected: Mapping[str, Expected], form: Form, bar: ProgressBar
) -> Tensors:
    """The shape of each tensor of a component as its form stores it, and what makes its values when called."""

    def make(name: str, item: Expected) -> Callable[[], Array]:
        def values() -> Array:
            array = seeded_tensor(seed, f"{component}.{name}", item.torch_shape)
            bar.update(array.nbytes)
            return np.ascontiguousarray(array.T) if item.transposed and form == "ppdiffusers" else array

        return values

    return {
        name: (item.torch_shape if form == "diffusers" else item.shape, make(name, item))
        for name, item in expected.items()
    }


def write_weights(folder: Path, tensors: Tensors, form: Form, stem: str = "diffusion_pytorch_model") -> None:
    """Write a component's weights into its folder, one tensor at a time; `stem` names the safetensors file."""
    if form == "diffusers":
        _write_safetensors(folder / f"{stem}.safetensors", tensors)
    else:
        write_pdparams(folder / "model_state.pdparams", {name: make for name, (_, make) in tensors.items()})


def _write_safetensors(path: Path, tensors: Tensors) -> None:
    """Write float32 tensors one at a time; the library's own writer wants all of them in memory.

    Format: https://github.com/huggingface/safetensors#format
    """

    def entries() -> Iterator[tuple[str, dict[str, Any]]]:
        end = 0
        for name, (shape, _) in tensors.items():
            start, end = end, end + 4 * math.prod(shape)
            yield name, {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}

    header = json.dumps({"__metadata__": {"format": "pt"}} | dict(entries())).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        for _, make in tensors.values():
            stream.write(make().reshape(-1).view(np.uint8).data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a config."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""A checkpoint folder in ppdiffusers' or diffusers' form, checked as a whole before anything is computed from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.lora import Lora, merge_lora
from kandinsky_export.checkpoints.other_models import refuse_others
from kandinsky_export.checkpoints.tensor_names import current_names, wrapper_of
from kandinsky_export.checkpoints.weight_names import find_weights
from kandinsky_export.checkpoints.weights import is_in_paddles_layout, read_weights, weight_files
from kandinsky_export.errors import CheckpointError

Array = npt.NDArray[np.float32]
Form = Literal["ppdiffusers", "diffusers"]

MODELS = ("unet", "movq")

# What only the Paddle libraries write into a model's config.
_PADDLE_KEYS = {"_ppdiffusers_version", "paddlenlp_version"}


@dataclass(frozen=True)
class Expected:
    """A tensor that a model expects: its shape in Paddle's layout, and whether PyTorch stores it transposed."""

    shape: tuple[int, ...]
    transposed: bool

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape in PyTorch's layout: Linear weights are [out, in] there and [in, out] in Paddle."""
        return self.shape[::-1] if self.transposed else self.shape


@dataclass(frozen=True)
class ModelFiles:
    """One model of a checkpoint: its config, and the path of its weights."""

    config: dict[str, Any]
    form: Form
    weights: Path


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Attributes:
        root: the folder.
        components: "unet" and "movq".
        scheduler: the scheduler's config.
        prefix: the beginning of each folder's name; "prior_" for the prior in a combined pipeline's folder.
        loras: merged one after the other into the model `lora_model`.
    """

    lora_model: ClassVar[str] = "unet"

    root: Path
    components: Mapping[str, ModelFiles]
    scheduler: dict[str, Any]
    prefix: str = field(default="", kw_only=True)
    loras: tuple[Lora, ...] = field(default=(), kw_only=True)

    @classmethod
    def open(cls, root: Path, variant: str | None = None) -> Checkpoint:
        """Find the configs and weight files of a checkpoint.

        Args:
            root: the folder, with `unet`, `movq` and `scheduler` in it.
            variant: of the weight files, such as "fp16"; None takes the plain ones, or the only variant there is.

        Raises:
            CheckpointError: lists every config and weight file that is missing or cannot be read.
        """
        faults: list[str] = []
        with read_folder(root):
            refuse_others(root, str(root), prior=False)
            scheduler = read_config(root / "scheduler" / "scheduler_config.json", faults)
            components = read_models(root, dict.fromkeys(MODELS, "diffusion_pytorch_model"), variant, faults)
        if faults:
            raise CheckpointError(str(root), faults)
        return cls(root, components, scheduler)

    def files(self) -> tuple[Path, ...]:
        """Every file that the checkpoint is read from."""
        found = [self.root / f"{self.prefix}scheduler" / "scheduler_config.json"]
        for component in self.components.values():
            found += [component.weights.parent / "config.json", *weight_files(component.weights)]
        return tuple(found)

    def tensors(self, expected: Mapping[str, Mapping[str, Expected]]) -> dict[str, dict[str, Callable[[], Array]]]:
        """The weights in Paddle's layout, by component and name, each read when it is called for.

        Args:
            expected: what the models expect, by component and name.

        Returns:
            Functions that return float32 arrays of the expected shapes.

        Raises:
            CheckpointError: lists every missing, extra and mis-shaped tensor of all components; or a LoRA does not fit.
        """
        faults: list[str] = []
        found = {name: self._component_tensors(name, tensors, faults) for name, tensors in expected.items()}
        if faults:
            raise CheckpointError(str(self.root), faults)
        if (model := self.lora_model) in found:
            shapes = {name: item.torch_shape for name, item in expected[model].items()}
            for lora in self.loras:
                found[model] = merge_lora(lora, model, found[model], shapes)
        return found

    def _component_tensors(
        self, name: str, expected: Mapping[str, Expected], faults: list[str]
    ) -> dict[str, Callable[[], Array]]:
        component = self.components[name]
        try:
            read = read_weights(component.weights)
        except CheckpointError as error:
            faults += [f"{error.subject}: {fault}" for fault in error.faults]
            return {}
        if wrapper := wrapper_of(read, expected):
            faults.append(
                f"{name}: every name begins with `{wrapper}`, as a model that is wrapped for training saves it; save"
                " the model inside the wrapper"
            )
            return {}
        stored = {new: read[old] for old, new in current_names(read, expected).items()}
        faults += [f"{name}: `{key}` is missing" for key in expected if key not in stored]
        faults += [f"{name}: `{key}` is extra; the config has no place for it" for key in stored if key not in expected]
        both = {key: (stored[key], item) for key, item in expected.items() if key in stored}
        for key, (tensor, item) in both.items():
            shape = item.torch_shape if component.form == "diffusers" else item.shape
            if tensor.shape != shape:
                faults.append(f"{name}: `{key}` has shape {tensor.shape}; the config makes it {shape}")
            elif not tensor.is_float:
                faults.append(f"{name}: `{key}` holds {tensor.dtype}; it must hold floating-point numbers")
        return {
            key: _turned(tensor.read) if item.transposed and component.form == "diffusers" else tensor.read
            for key, (tensor, item) in both.items()
        }


def _turned(read: Callable[[], Array]) -> Callable[[], Array]:
    return lambda: np.ascontiguousarray(read().T)


@contextmanager
def read_folder(root: Path) -> Iterator[None]:
    """Report in one sentence why a checkpoint's folder cannot be read.

    Raises:
        CheckpointError: there is no such folder, or it cannot be read.
    """
    try:
        if not root.is_dir():
            raise CheckpointError(str(root), ["no such folder"])
        yield
    except OSError as error:
        raise CheckpointError(str(root), [f"cannot be read ({error})"]) from error


def read_models(
    root: Path, stems: Mapping[str, str], variant: str | None, faults: list[str], prefix: str = ""
) -> dict[str, ModelFiles]:
    """The models of a checkpoint that have weights; `faults` takes every config and weight file that is missing.

    Args:
        root: the folder.
        stems: model → how the name of its safetensors file begins in diffusers' form.
        variant: of the weight files; None takes the plain ones, or the only variant there is.
        faults: takes what is wrong.
        prefix: the beginning of each folder's name; the model's name follows.
    """
    components = {}
    for name, stem in stems.items():
        folder = root / f"{prefix}{name}"
        config = read_config(folder / "config.json", faults)
        if found := find_weights(folder, stem, variant, faults, by_paddle=_PADDLE_KEYS & set(config) != set()):
            in_paddles_layout = is_in_paddles_layout(found)
            components[name] = ModelFiles(config, "ppdiffusers" if in_paddles_layout else "diffusers", found)
    return components


def read_config(path: Path, faults: list[str]) -> dict[str, Any]:
    """A JSON object of a checkpoint; empty if it cannot be read; `faults` takes the reason."""
    where = path.relative_to(path.parent.parent)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(f"{where} is missing")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{where} cannot be read ({error})")
        return {}
    if not isinstance(config, dict):
        faults.append(f"{where} holds no config")
        return {}
    return config

"""LoRA weights, as diffusers' Kandinsky 2.2 training scripts save them, merged into a model: W + scale * B A.

The names that diffusers has written, each perhaps after `unet.` or `prior.`:

    down_blocks.1.attentions.0.processor.to_q_lora.down.weight      attention processors, before 0.26
    down_blocks.1.attentions.0.to_q_lora.down.weight                the same, without `processor`
    down_blocks.1.attentions.0.to_q.lora.down.weight                layers with LoRA built in
    down_blocks.1.attentions.0.to_q.lora_A.weight                   peft

`down` is A, (rank, in), and `up` is B, (out, rank). `….alpha` divides: the update is alpha / rank * B A.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", equation 3.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from kandinsky_export.checkpoints.weights import StoredTensor, read_weights
from kandinsky_export.errors import CheckpointError
from kandinsky_runtime.errors import UsageError

Array = npt.NDArray[np.float32]
Thunks = Mapping[str, Callable[[], Array]]

LORA_FILE = "pytorch_lora_weights.safetensors"
_SHOWN = 40  # characters of a value in a message
_METADATA = "lora_adapter_metadata"  # where diffusers writes peft's settings

_SIDE = re.compile(
    r"(?:processor\.)?(?P<part>to_q|to_k|to_v|to_out|add_k_proj|add_v_proj)_lora\.(?P<side>down|up)\.weight$"
    r"|(?:lora|lora_linear_layer)\.(?P<built>down|up)\.weight$"
    r"|lora_(?P<peft>[AB])(?:\.default)?\.weight$"
)
_SIDES = {"down": "A", "up": "B", "A": "A", "B": "B"}


@dataclass(frozen=True)
class Lora:
    """A LoRA to merge.

    Attributes:
        path: the safetensors file.
        scale: what its update is multiplied by; 1 is the strength that it was trained with.
    """

    path: Path
    scale: float = 1.0


@dataclass
class _Found:
    """What a file has for one layer."""

    a: StoredTensor | None = None
    b: StoredTensor | None = None
    alpha: StoredTensor | None = None


@dataclass(frozen=True)
class _Update:
    """The update of one layer, whose shapes fit."""

    a: StoredTensor
    b: StoredTensor
    alpha: StoredTensor | None


def parse_lora(text: str) -> Lora:
    """The LoRA that `FILE[:SCALE]` names; FILE may be the folder that a training script wrote.

    Raises:
        UsageError: there is no such file, it is no safetensors file, or the scale is not a finite number.
    """
    path, scale = Path(text), 1.0
    name, colon, number = text.rpartition(":")
    if colon and not path.exists():
        try:
            path, scale = Path(name), float(number)
        except ValueError:
            raise UsageError(f"{text}: no such file, and {number!r} is no scale; give FILE or FILE:SCALE") from None
    if path.is_dir():
        path /= LORA_FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file; give the {LORA_FILE} of a training, or its folder")
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} is no .safetensors file; convert it with the program that made it")
    if not math.isfinite(scale):
        raise UsageError(f"{text}: the scale is {scale}; expected a finite number")
    return Lora(path, scale)


def merge_lora(lora: Lora, model: str, tensors: Thunks, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The weights with a LoRA in them, each read and merged when it is called for.

    Args:
        lora: the file and its scale.
        model: "unet" or "prior", which the file's names may begin with.
        tensors: the model's weights, Linear ones in Paddle's layout, [in, out].
        shapes: the shape of each in PyTorch's layout.

    Raises:
        CheckpointError: lists every name of the file that the model has no place for, and every shape that does not
            fit. Nothing of a file is ignored.
    """
    faults: list[str] = []
    layers = _layers_of(read_weights(lora.path), model, shapes, faults)
    rate = _rate(lora.path, model, faults)
    merged = dict(tensors)
    for name, found in layers.items():
        update = _checked(name, found, shapes[name], faults)
        if update is not None:
            merged[name] = _merged(name, tensors[name], update, lora, rate)
    if not layers and not faults:
        faults.append("it has no LoRA weights")
    if faults:
        raise CheckpointError(str(lora.path), faults)
    return merged


def _layers_of(
    stored: Mapping[str, StoredTensor], model: str, shapes: Mapping[str, Any], faults: list[str]
) -> dict[str, _Found]:
    """Weight → what the file has for it."""
    layers: dict[str, _Found] = {}
    for key, tensor in stored.items():
        name = key
        for prefix in ("base_model.model.", f"{model}."):
            name = name.removeprefix(prefix)
        if match := _SIDE.search(name):
            side = _SIDES[match["side"] or match["built"] or match["peft"]].lower()
            layer = name[: match.start()] + (match["part"] or "")
        elif name.endswith(".alpha"):
            side, layer = "alpha", name.removesuffix(".alpha")
            layer = re.sub(r"(?:processor\.)?(\w+)_lora$", r"\1", layer)
        else:
            faults.append(f"`{key}` is not the name of a LoRA weight for a {model}")
            continue
        weight = next((f"{one}.weight" for one in _layers(layer) if f"{one}.weight" in shapes), None)
        if weight is None:
            faults.append(f"`{key}`: the {model} has no layer `{layer.rstrip('.')}`")
        elif getattr(found := layers.setdefault(weight, _Found()), side) is not None:
            faults.append(f"`{key}`: the file has a second one for this layer")
        elif not tensor.is_float:
            faults.append(f"`{key}` holds {tensor.dtype}; it must hold floating-point numbers")
        else:
            setattr(found, side, tensor)
    return layers


def _layers(layer: str) -> tuple[str, str]:
    """The layer's names in the model: an attention's output is the first of a list there."""
    layer = layer.rstrip(".")
    return layer, f"{layer}.0"


def _checked(name: str, found: _Found, shape: tuple[int, ...], faults: list[str]) -> _Update | None:
    """The update of a weight of this shape, or None with an entry in `faults`."""
    layer = name.removesuffix(".weight")
    if found.a is None or found.b is None:
        faults.append(f"`{layer}` has no {'A (down)' if found.a is None else 'B (up)'}")
        return None
    a, b = found.a.shape, found.b.shape
    rank, out = (a[0] if a else 0), shape[0]
    if len(shape) < 2 or rank == 0 or a[1:] != shape[1:] or b != (out, rank, *(1,) * (len(shape) - 2)):
        faults.append(f"`{layer}` has A {a} and B {b}; its weight is {shape}")
        return None
    if found.alpha is not None and math.prod(found.alpha.shape) != 1:
        faults.append(f"`{layer}.alpha` has shape {found.alpha.shape}; expected one number")
        return None
    return _Update(found.a, found.b, found.alpha)


def _merged(
    name: str, read: Callable[[], Array], update: _Update, lora: Lora, rate: float | None
) -> Callable[[], Array]:
    def merge() -> Array:
        a, b = update.a.read().astype(np.float64), update.b.read().astype(np.float64)
        rank = a.shape[0]
        alpha = rate if update.alpha is None else float(update.alpha.read().reshape(())) / rank
        weight = read()
        with np.errstate(over="ignore", invalid="ignore"):
            product = b.reshape(-1, rank) @ a.reshape(rank, -1)
            change = product.T if weight.ndim == 2 else product.reshape(weight.shape)
            scale = lora.scale * (1.0 if alpha is None else alpha)
            merged = np.ascontiguousarray(weight + scale * change, np.float32)
        if np.isfinite(weight).all() and not np.isfinite(merged).all():
            raise CheckpointError(
                str(lora.path),
                [f"`{name}` overflows float32 with its update; give a smaller scale than {lora.scale:g}"],
            )
        return merged

    return merge


def _rate(path: Path, model: str, faults: list[str]) -> float | None:
    """alpha / rank of peft's settings, which diffusers may write into the file; None if they are not there."""
    try:
        with safe_open(path, framework="numpy") as file:
            settings = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        faults.append(f"its metadata `{_METADATA}` cannot be read")
        return None
    if not isinstance(settings, dict) or not settings:
        return None
    settings = {key.removeprefix(f"{model}."): value for key, value in settings.items()}
    faults += [
        f"`{key}` is {settings[key]!r} in its settings, which is not supported"
        for key in ("use_dora", "use_rslora", "alpha_pattern", "rank_pattern", "lora_bias")
        if settings.get(key)
    ]
    alpha, rank = settings.get("lora_alpha"), settings.get("r")
    try:
        rate = (
            float(alpha) / rank if isinstance(alpha, (int, float)) and isinstance(rank, int) and rank > 0 else math.nan
        )
    except OverflowError:  # whole numbers of JSON have any length
        rate = math.nan
    if not math.isfinite(rate):
        shown = repr(alpha)[:_SHOWN], repr(rank)[:_SHOWN]
        faults.append(f"`lora_alpha` is {shown[0]} and `r` is {shown[1]} in its settings; expected two numbers")
        return None
    return rate

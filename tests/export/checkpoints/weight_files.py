"""Weight files as other tools write them: safetensors of any dtype, whole or in shards, and Paddle's own."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected

Array = npt.NDArray[Any]
_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "uint16": "BF16", "int64": "I64", "int32": "I32"}


def save_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """Write arrays; those of uint16 are taken for bf16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[str(array.dtype)], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in tensors.values()))


def save_shards(folder: Path, tensors: Mapping[str, Array], index: str, shard: str, count: int = 3) -> None:
    """Write arrays in `count` files called `shard` with `{}` for the number, and an index that names them."""
    names = list(tensors)
    placement = {name: shard.format(f"{i % count + 1:05}-of-{count:05}") for i, name in enumerate(names)}
    for file in set(placement.values()):
        save_safetensors(folder / file, {name: tensors[name] for name in names if placement[name] == file})
    text = {"metadata": {"total_size": sum(array.nbytes for array in tensors.values())}, "weight_map": placement}
    (folder / index).write_text(json.dumps(text))


def as_thunks(tensors: Mapping[str, Array]) -> dict[str, Callable[[], Array]]:
    """Functions that return the arrays, as the project's own writers take them."""
    return {name: array.view for name, array in tensors.items()}


def to_bf16(array: Array) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 values."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def stored(
    checkpoint: Path, component: str, expected: Mapping[str, Mapping[str, Expected]]
) -> dict[str, npt.NDArray[np.float32]]:
    """A component's values as a file in diffusers' form holds them, Linear weights [out, in]."""
    tensors = read_all(checkpoint, expected)[component]
    return {
        name: np.ascontiguousarray(array.T) if expected[component][name].transposed else array
        for name, array in tensors.items()
    }


def read_all(
    checkpoint: Path, expected: Mapping[str, Mapping[str, Expected]], variant: str | None = None
) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """Every value of a checkpoint, in Paddle's layout."""
    readers: Mapping[str, Mapping[str, Callable[[], npt.NDArray[np.float32]]]]
    readers = Checkpoint.open(checkpoint, variant).tensors(expected)
    return {component: {name: read() for name, read in tensors.items()} for component, tensors in readers.items()}

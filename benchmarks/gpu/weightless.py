"""A bundle without the values of its weights, if they are random: a few MB are left of 5 GB.

A tensor's values depend on (seed, name) only (`kandinsky_export.random_weights.seeded`). Its place in the file is
enough to restore it bit for bit. All other bytes of a weights file are kept as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Between the names of merged weights (`kandinsky_export.graphs.rewrites.merged_projections`).
_JOINED = "+"
# (seed, "unet." or "movq." and the name in the state dict, shape in PyTorch's layout) → float32 values
Seeded = Callable[[int, str, tuple[int, ...]], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Placed:
    """A tensor in a weights file.

    Attributes:
        name: the name in the seed's rule.
        shape: the shape in the file.
        dtype: "float32", "float16" or "bfloat16".
        offset, length: in bytes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    length: int

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Placed:
        """The tensor that `to_json` described."""
        return cls(**{**data, "shape": tuple(data["shape"])})


def values(seeded: Seeded, seed: int, tensor: Placed) -> bytes:
    """The bytes that the rule gives for a tensor. Matrices are [in, out] in the file and [out, in] in PyTorch.

    Weights of one width that the exporter put side by side are one tensor in the file: "unet.a.weight+b.weight".
    """
    prefix, _, names = tensor.name.partition(".")
    parts = names.split(_JOINED)
    shape = (*tensor.shape[:-1], tensor.shape[-1] // len(parts)) if len(parts) > 1 else tensor.shape
    made = [_in_file(seeded, seed, f"{prefix}.{name}", shape) for name in parts]
    return _encoded(np.concatenate(made, axis=-1) if len(made) > 1 else made[0], tensor.dtype)


def _in_file(seeded: Seeded, seed: int, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if len(shape) == 2:
        return np.ascontiguousarray(seeded(seed, name, shape[::-1]).T)
    return seeded(seed, name, shape)


def split(file: Path, tensors: Iterable[Placed], seeded: Seeded, seed: int) -> tuple[list[Placed], bytes]:
    """The tensors whose values are those of the seed, by offset, and all other bytes of the file."""
    made: list[Placed] = []
    rest = bytearray()
    position = 0
    with file.open("rb") as stream:
        for tensor in sorted(tensors, key=lambda item: item.offset):
            rest += stream.read(tensor.offset - position)
            content = stream.read(tensor.length)
            position = tensor.offset + tensor.length
            if content == values(seeded, seed, tensor):
                made.append(tensor)
            else:
                rest += content
        rest += stream.read()
    return made, bytes(rest)


def join(file: Path, tensors: Sequence[Placed], rest: bytes, seeded: Seeded, seed: int) -> None:
    """Write the file that `split` took apart."""
    taken = position = 0
    with file.open("wb") as stream:
        for tensor in tensors:
            gap = tensor.offset - position
            stream.write(rest[taken : taken + gap])
            stream.write(values(seeded, seed, tensor))
            taken, position = taken + gap, tensor.offset + tensor.length
        stream.write(rest[taken:])


def external_tensors(graph: Any, prefix: str) -> Iterator[tuple[str, Placed]]:
    """(file, tensor) of every external initializer of an ONNX graph; `prefix` goes before the names."""
    import onnx

    for tensor in graph.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            dtype = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
            names = {"float": "float32"}
            yield (
                entries["location"],
                Placed(
                    prefix + tensor.name,
                    tuple(tensor.dims),
                    names.get(dtype, dtype),
                    int(entries["offset"]),
                    int(entries["length"]),
                ),
            )


def _encoded(array: npt.NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "bfloat16":  # the upper half of float32, rounded to the nearest, ties to even
        bits = array.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()
    return array.astype(dtype).tobytes()

"""One file of weights for Paddle and for ONNX: a `.pdiparams` whose tensors ONNX finds by offset.

Paddle's combined parameter file is a row of tensors in the order of their names, each of a version (uint32), a level
of detail (uint64, 0), a tensor version (uint32), the size of a protobuf description (int32), the description, and the
raw values (paddle/phi/core/framework: dense_tensor_serialize.cc). ONNX external data needs no more than a
file, an offset and a length; what it likes is alignment. The description may hold fields that Paddle does not know, so
one such field of the right length puts the values on an aligned offset.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.progress import ProgressBar

Array = npt.NDArray[Any]

_PAGE = 4096
_CACHE_LINE = 64
# TensorDesc.data_type: FP32, FP16, and BF16, which numpy holds as uint16.
_TYPES = {np.dtype(np.float32): b"\x08\x05", np.dtype(np.float16): b"\x08\x04", np.dtype(np.uint16): b"\x08\x16"}
_DIM = b"\x10"  # TensorDesc.dims, a varint
_PADDING = b"\x7a"  # field 15, bytes: unknown to Paddle and skipped


@dataclass(frozen=True)
class Placement:
    """The place of a tensor's values in the file, in bytes."""

    offset: int
    length: int


def write_params(
    path: Path, tensors: Mapping[str, Callable[[], Array]], bar: ProgressBar | None = None
) -> dict[str, Placement]:
    """Write tensors one at a time; memory for one of them is enough.

    Args:
        path: the new file.
        tensors: by name, functions that return the values: float16, bf16 held as uint16, or what becomes float32.
        bar: advances by the bytes written.

    Returns:
        The place of each tensor's values. Tensors of 64 KiB and more begin on a page, smaller ones on 64 bytes.

    Raises:
        OSError: the file cannot be written.
    """
    placements = {}
    with path.open("wb") as stream:
        for name in sorted(tensors):
            values = np.asarray(tensors[name](), order="C")
            if values.dtype not in _TYPES:
                values = values.astype(np.float32)
            stream.write(_header(values, stream.tell()))
            placements[name] = Placement(stream.tell(), values.nbytes)
            stream.write(values.reshape(-1).view(np.uint8).data)
            if bar is not None:
                bar.update(values.nbytes)
    return placements


def _header(values: Array, position: int) -> bytes:
    description = _TYPES[values.dtype] + b"".join(_DIM + _varint(size) for size in values.shape)
    fixed = struct.calcsize("<IQIi") + len(description) + len(_PADDING) + 2
    alignment = _PAGE if values.nbytes >= 16 * _PAGE else _CACHE_LINE
    padding = -(position + fixed) % alignment
    description += _PADDING + bytes((padding & 0x7F | 0x80, padding >> 7)) + bytes(padding)
    return struct.pack("<IQIi", 0, 0, 0, len(description)) + description


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

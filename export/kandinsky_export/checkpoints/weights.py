"""Tensors in weight files: shapes and dtypes at once, values one tensor at a time when they are read."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from kandinsky_export.checkpoints.pdparams import read_pdparams, widen_bf16
from kandinsky_export.errors import CheckpointError

Array = npt.NDArray[np.float32]

_SAFETENSORS_FLOATS = ("F32", "F16", "BF16", "F64")
_PADDLE_FORMATS = ("pd", "np")  # in a safetensors file's metadata: ppdiffusers' models, and PaddleNLP's encoders


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        shape: as stored.
        dtype: as the file names it.
        is_float: whether it holds floating-point numbers that can be read.
        read: returns its values as a new float32 array, read again at each call; raises CheckpointError if they
            cannot be read any more, or are not finite.
    """

    shape: tuple[int, ...]
    dtype: str
    is_float: bool
    read: Callable[[], Array]


def read_weights(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a `.pdparams` or `.safetensors` file, or of all shards of an index.

    Raises:
        CheckpointError: a file is missing, damaged, or holds what it must not.
    """
    if path.suffix == ".json":
        return _sharded(path)
    return _safetensors(path) if path.suffix == ".safetensors" else _pdparams(path)


def is_in_paddles_layout(path: Path) -> bool:
    """Whether Linear weights in a weight file, or in the shards of an index, are [in, out].

    A `.safetensors` file says so in its metadata. One that says nothing is in PyTorch's layout, as ppdiffusers takes it
    to be, unless it has Paddle's name. A file that cannot be read counts as one that says nothing.
    """
    if ".pdparams" in path.suffixes:
        return True
    default = path.name.startswith("diffusion_paddle_model")
    try:
        with safe_open(weight_files(path)[-1], framework="numpy") as file:
            stated = (file.metadata() or {}).get("format")
    except (CheckpointError, SafetensorError, OSError):
        return default
    return default if stated is None else stated in _PADDLE_FORMATS


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that `read_weights(path)` reads.

    Raises:
        CheckpointError: an index of shards cannot be read.
    """
    if path.suffix == ".json":
        return (path, *(path.parent / name for name in sorted(set(_weight_map(path).values()))))
    return (path,)


def _safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = {name: (tuple(item.get_shape()), item.get_dtype()) for name, item in slices.items()}
            if (file.metadata() or {}).get("format") in _PADDLE_FORMATS:
                header = {name: (shape, "BF16" if dtype == "U16" else dtype) for name, (shape, dtype) in header.items()}
        offsets = _bf16_offsets(path) if any(dtype == "BF16" for _, dtype in header.values()) else {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(str(path), [f"not a whole safetensors file ({error}); download it again"]) from error
    return {
        name: StoredTensor(
            shape, dtype, dtype in _SAFETENSORS_FLOATS, _safetensors_reader(path, name, shape, offsets.get(name))
        )
        for name, (shape, dtype) in header.items()
    }


def _safetensors_reader(path: Path, name: str, shape: tuple[int, ...], bf16_offset: int | None) -> Callable[[], Array]:
    def read() -> Array:
        try:
            if bf16_offset is not None:
                count = int(np.prod(shape))
                values = widen_bf16(np.fromfile(path, np.uint16, count, offset=bf16_offset).reshape(shape))
            else:
                # Opened for each tensor: a mapping kept open would count every page read so far as resident memory.
                with safe_open(path, framework="numpy") as file:
                    values = _as_float32(file.get_tensor(name))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(str(path), [f"`{name}` cannot be read any more ({error})"]) from error
        return _finite(values, path, name)

    return read


def _bf16_offsets(path: Path) -> dict[str, int]:
    """Where each bf16 tensor begins in a file that safetensors has checked; numpy has no such dtype to read it as."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {
        name: 8 + length + entry["data_offsets"][0]
        for name, entry in header.items()
        if entry.get("dtype") in ("BF16", "U16")  # the second is Paddle's way to save bf16
    }


def _pdparams(path: Path) -> dict[str, StoredTensor]:
    tensors = {}
    for name, array in read_pdparams(path).items():
        is_bf16 = array.dtype == np.uint16  # which is how Paddle saves bf16
        dtype = "bfloat16" if is_bf16 else str(array.dtype)
        reader = _pdparams_reader(path, name, array)
        tensors[name] = StoredTensor(array.shape, dtype, is_bf16 or array.dtype.kind == "f", reader)
    return tensors


def _pdparams_reader(path: Path, name: str, array: npt.NDArray[Any]) -> Callable[[], Array]:
    def read() -> Array:
        values = widen_bf16(array) if array.dtype == np.uint16 else _as_float32(array)
        _release_pages(array)
        return _finite(values, path, name)

    return read


def _release_pages(array: npt.NDArray[Any]) -> None:
    """Let the pages of a mapped file, read by now, no longer count as this process's memory; reading fetches them."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _as_float32(array: npt.NDArray[Any]) -> Array:
    with np.errstate(over="ignore"):  # too large for float32: infinity, which is refused
        return np.array(array, np.float32, order="C")


def _finite(values: Array, path: Path, name: str) -> Array:
    if values.size and not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CheckpointError(str(path), [f"`{name}` has NaN or infinity"])
    return values


def _sharded(index: Path) -> dict[str, StoredTensor]:
    placement = _weight_map(index)
    shards: dict[str, dict[str, StoredTensor]] = {}
    faults = []
    for file in sorted(set(placement.values())):
        try:
            shards[file] = read_weights(index.parent / file)
        except CheckpointError as error:
            faults += [f"{file}: {fault}" for fault in error.faults]
    tensors = {}
    for name, file in placement.items():
        if file in shards and name not in shards[file]:
            faults.append(f"{file} lacks `{name}`, which the index says it has")
        elif file in shards:
            tensors[name] = shards[file][name]
    if faults:
        raise CheckpointError(str(index), faults)
    return tensors


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        placement = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(str(index), [f"not an index of shards ({error!r})"]) from error
    if not isinstance(placement, dict) or not all(isinstance(file, str) for file in placement.values()):
        raise CheckpointError(str(index), ["`weight_map` must map tensor names to file names"])
    suffix = ".pdparams" if ".pdparams" in index.suffixes else ".safetensors"
    others = sorted({file for file in placement.values() if not _is_plain_name(file, suffix)})
    if others:
        raise CheckpointError(str(index), [f"{file!r} is not the plain name of a {suffix} file" for file in others])
    return placement


def _is_plain_name(file: str, suffix: str) -> bool:
    return PurePath(file).name == file and file.endswith(suffix) and not set("\\\0") & set(file)

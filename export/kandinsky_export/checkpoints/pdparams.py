"""Read Paddle's `.pdparams` weights as views of the file, without running anything that the file holds.

A `.pdparams` file is a pickle, and `paddle.load` calls whatever a pickle names. Here `PickleMachine` interprets it;
this module makes the file available and sorts what comes out of it:

    {name: array, ...,                                                          the tensors
     "StructuredToParameterName@@": {name: Paddle's own name},                  dropped
     "UnpackBigParamInfor@@": {name: {"OriginShape": shape,
                                      "slices": ["name@@.0", "name@@.1", ...]}}}  parts to be joined

Source: paddle/framework/io.py (`_build_saved_state_dict`) and io_utils.py (`_unpack_saved_dict`,
`_pack_loaded_dict`), paddlepaddle 3.0.0.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.pickle_machine import PickleMachine, PickleRefused
from kandinsky_export.checkpoints.pickled_values import PickledArray, describe, is_shape
from kandinsky_export.errors import CheckpointError
from kandinsky_runtime.errors import TensorError

NAME_TABLE = "StructuredToParameterName@@"
SPLIT_TABLE = "UnpackBigParamInfor@@"

_SAVE_AGAIN = "save the model's state_dict() alone with paddle.save"

Tensors = dict[str, npt.NDArray[Any]]


def read_pdparams(path: str | os.PathLike[str]) -> Tensors:
    """Return the tensors of a `.pdparams` file by name, in the file's order.

    Arrays are read-only and have the shape, dtype and memory order that were saved: float16, float32, float64, int8,
    int32, int64, uint8, bool, or uint16, which stands for bfloat16 (see `widen_bf16`). They are views of a memory map
    of the file, seldom aligned, and keep it alive; do not change the file while they are in use. Only tensors written
    with protocol 2 (bytes stored as text) and tensors that Paddle split (over 1 GiB, protocols 2 and 3) are copies.

    Raises CheckpointError if the file cannot be opened, is damaged, or holds anything but a flat dict of such arrays.
    """
    file_name = os.fspath(path)
    data = _map_file(file_name)
    try:
        root = PickleMachine(data).run()
    except PickleRefused as refused:
        fault = f"{refused}; nothing in the file was run: fetch it again, or {_SAVE_AGAIN}"
        raise CheckpointError(file_name, [fault]) from None
    if not isinstance(root, dict):
        raise CheckpointError(file_name, [f"it holds {describe(root)}, not a state dict: {_SAVE_AGAIN}"])
    faults: list[str] = []
    root.pop(NAME_TABLE, None)
    splits = root.pop(SPLIT_TABLE, {})
    tensors = _arrays(root, faults)
    _join_split_tensors(tensors, splits, len(data), faults)
    if faults:
        raise CheckpointError(file_name, faults)
    return tensors


def widen_bf16(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return float32 values, in the same shape, of bfloat16 values held as uint16; the widening is exact.

    Raises TensorError for any other dtype.
    """
    if array.dtype != np.uint16:
        raise TensorError(f"bfloat16 values are held as uint16, got {array.dtype}: use other tensors as they are")
    wide = np.empty(array.shape, np.uint32)
    np.left_shift(array, 16, out=wide, dtype=np.uint32)
    return wide.view(np.float32)


def _map_file(file_name: str) -> mmap.mmap:
    try:
        # Checked before it is opened: opening a named pipe would wait for its writer.
        status = Path(file_name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(file_name, ["this is a folder or a device: give the .pdparams file itself"])
        if status.st_size == 0:
            raise CheckpointError(file_name, ["the file is empty: fetch it again"])
        with Path(file_name).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or a file emptied just now
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(file_name, [f"cannot be opened ({reason}): check the path"]) from error


def _arrays(root: dict[str, object], faults: list[str]) -> Tensors:
    tensors = {}
    for name, value in root.items():
        match value:
            # A tensor saved outside a plain state dict brings Paddle's name for it.
            case PickledArray(array=np.ndarray() as array) | (str(), PickledArray(array=np.ndarray() as array)):
                tensors[name] = array
            case _:
                faults.append(f"{name[:80]!r} holds {describe(value)}, not an array: {_SAVE_AGAIN}")
    return tensors


def _join_split_tensors(tensors: Tensors, splits: object, file_size: int, faults: list[str]) -> None:
    """Replace the parts of every split tensor by the tensor."""
    if not isinstance(splits, dict):
        faults.append(f"{SPLIT_TABLE!r} holds {describe(splits)}, not a dict: {_SAVE_AGAIN}")
        return
    joined_bytes = 0
    for name, split in splits.items():
        parts = _take_parts(tensors, name, split)
        joined_bytes += sum(part.nbytes for part in parts)
        # Genuine parts have bytes of their own. Parts that share theirs could be joined to any size.
        if not parts or name in tensors or joined_bytes > file_size:
            faults.append(f"the parts of the split tensor {name[:80]!r} do not fit together: {_SAVE_AGAIN}")
            continue
        tensors[name] = np.concatenate(parts).reshape(split["OriginShape"])
        tensors[name].flags.writeable = False


def _take_parts(tensors: Tensors, name: str, split: object) -> list[npt.NDArray[Any]]:
    """Remove a split tensor's flat parts, `name@@.0` and so on, and return them; nothing if they do not add up."""
    match split:
        case {"OriginShape": shape, "slices": list() as slices} if is_shape(shape):
            parts = []
            for index, slice_name in enumerate(slices):
                # Other names are never Paddle's, and looking at them all would let many tensors share a long list.
                if slice_name != f"{name}@@.{index}" or slice_name not in tensors:
                    return []
                parts.append(tensors.pop(slice_name))
            flat = all(part.ndim == 1 and part.dtype == parts[0].dtype for part in parts)
            return parts if flat and sum(part.size for part in parts) == math.prod(shape) > 0 else []
    return []

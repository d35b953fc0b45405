"""Write a `.pdparams` file one tensor at a time, so that memory holds one tensor and not the model.

The file is a pickle of protocol 4 that `paddle.load` reads as a dict of name to array. Every opcode is spelled out
here, unframed and without a memo; per tensor:

    name   _reconstruct(ndarray, (0,), b"b")   BUILD (1, shape, dtype, fortran order, bytes)   SETITEM

Sources: CPython's Lib/pickletools.py (opcodes) and numpy's `ndarray.__reduce__`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from kandinsky_export.checkpoints.pdparams import NAME_TABLE, SPLIT_TABLE
from kandinsky_export.checkpoints.pickled_values import DTYPES, MAX_NAME_BYTES
from kandinsky_runtime.errors import TensorError

Thunk = Callable[[], npt.NDArray[Any]]


def write_pdparams(path: str | os.PathLike[str], tensors: Mapping[str, Thunk] | Iterable[tuple[str, Thunk]]) -> None:
    """Write the array that each thunk returns under its name, straight to `path`.

    A thunk is called once, when its turn comes, and its array is dropped before the next one is called. The dtypes
    are those of `read_pdparams`; bfloat16 goes in as uint16. Fortran order is kept, other layouts become C order.

    Raises TensorError for another dtype, and for a name that is used twice, reserved by Paddle or over 1,024 bytes
    long. What has been written until then, or until a thunk raises, is no whole file: the caller removes it.
    """
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    written = {NAME_TABLE, SPLIT_TABLE}
    with Path(path).open("wb") as file:
        file.write(b"\x80\x04}")  # PROTO 4, EMPTY_DICT
        for name, thunk in pairs:
            if name in written:
                raise TensorError(f"{name!r} is used twice or reserved by Paddle: give every tensor a name of its own")
            written.add(name)
            file.write(_name(name))
            _write_array(file, name, thunk())
            file.write(b"s")  # SETITEM
        file.write(b".")  # STOP


def _write_array(file: BinaryIO, name: str, array: npt.NDArray[Any]) -> None:
    fortran_order = array.flags.f_contiguous and not array.flags.c_contiguous
    file.write(_RECONSTRUCT)
    file.write(b"(K\x01")  # MARK, BININT1: the state's version
    file.write(b"(" + b"".join(_int(size) for size in array.shape) + b"t")  # MARK ... TUPLE
    file.write(_dtype(name, array.dtype))
    file.write(b"\x88" if fortran_order else b"\x89")  # NEWTRUE, NEWFALSE
    file.write(b"\x8e" + array.nbytes.to_bytes(8, "little"))  # BINBYTES8
    little_endian = array.dtype.newbyteorder("<")
    contiguous = np.asarray(array.T if fortran_order else array, little_endian, order="C")
    file.write(contiguous.reshape(-1).view(np.uint8).data)
    file.write(b"tb")  # TUPLE, BUILD


def _name(name: str) -> bytes:
    encoded = name.encode()
    if len(encoded) > MAX_NAME_BYTES:
        raise TensorError(f"{name[:80]!r}... is a name of {len(encoded):,} bytes; {MAX_NAME_BYTES:,} are the limit")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded  # BINUNICODE


def _global(module: str, name: str) -> bytes:
    return _name(module) + _name(name) + b"\x93"  # STACK_GLOBAL


def _int(value: int) -> bytes:
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)  # LONG1


def _dtype(name: str, dtype: np.dtype[Any]) -> bytes:
    code = dtype.str[1:]
    if code not in DTYPES:
        raise TensorError(f"{name!r} is {dtype}, which is none of {', '.join(DTYPES)}: cast it")
    order = "|" if dtype.itemsize == 1 else "<"
    call = _global("numpy", "dtype") + _name(code) + b"\x89\x88\x87R"  # NEWFALSE, NEWTRUE, TUPLE3, REDUCE
    state = b"(K\x03" + _name(order) + b"NNN" + _MINUS_ONE * 2 + b"K\x00tb"  # MARK ... TUPLE, BUILD
    return call + state


_MINUS_ONE = b"J\xff\xff\xff\xff"  # BININT
# _reconstruct(ndarray, (0,), b"b"): BININT1, TUPLE1, SHORT_BINBYTES, TUPLE3, REDUCE
_RECONSTRUCT = _global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"

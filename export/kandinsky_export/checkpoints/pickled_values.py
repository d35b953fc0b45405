"""The values that a Paddle state dict is made of, as `PickleMachine` represents them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

# Longer text is not decoded unless it stands for bytes, as it does in protocol 2.
MAX_NAME_BYTES = 1024
MAX_DIMENSIONS = 32  # numpy 1.26's own limit; numpy 2 has 64, Paddle 9

# By numpy's code. A bfloat16 tensor arrives as uint16, which Paddle has no tensors of.
DTYPES = {code: np.dtype(f"<{code}") for code in ("f2", "f4", "f8", "i1", "i4", "i8", "u1", "u2", "b1")}


class Symbol(Enum):
    """A global that a genuine file names."""

    RECONSTRUCT = "numpy.core.multiarray._reconstruct"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    TUPLE = "tuple"
    BYTES = "bytes"


SYMBOLS = {
    ("numpy.core.multiarray", "_reconstruct"): Symbol.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Symbol.RECONSTRUCT,
    ("numpy", "ndarray"): Symbol.NDARRAY,
    ("numpy", "dtype"): Symbol.DTYPE,
    ("_codecs", "encode"): Symbol.ENCODE,
    ("builtins", "tuple"): Symbol.TUPLE,
    ("__builtin__", "tuple"): Symbol.TUPLE,
    ("__builtin__", "bytes"): Symbol.BYTES,  # how protocol 2 writes b"", the payload of an empty tensor
}


@dataclass(frozen=True, eq=False, slots=True)
class BytesSpan:
    """Bytes that stay in the file."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False, slots=True)
class TextSpan:
    """Text too long for a name, left undecoded in the file."""

    start: int
    stop: int


@dataclass(frozen=True, eq=False, slots=True)
class PickledDtype:
    """A dtype, known by its code; the file states its byte order separately."""

    dtype: np.dtype[Any]


@dataclass(eq=False, slots=True)
class PickledArray:
    """An array, which the file first announces and gives shape, dtype and bytes later."""

    array: npt.NDArray[Any] | None = None


_KINDS: dict[type, str] = {
    type(None): "None",
    BytesSpan: "bytes",
    TextSpan: "text",
    str: "text",
    int: "an int",
    PickledDtype: "a dtype",
    PickledArray: "an array",
}


def describe(value: object) -> str:
    """The kind of a value, for an error message."""
    if isinstance(value, Symbol):
        return f"the global {value.value}"
    if isinstance(value, PickledArray) and value.array is None:
        return "an array without shape and bytes"
    return _KINDS.get(type(value), f"a {type(value).__name__}")


def is_shape(value: object) -> TypeGuard[tuple[int, ...]]:
    """Whether `value` is a tuple of at most 32 non-negative ints."""
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_DIMENSIONS
        and all(type(size) is int and size >= 0 for size in value)
    )

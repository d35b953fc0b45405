"""The signature of a compiled graph: its tensors, and the check that every feed passes before an engine sees it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import TensorError

DTYPES = ("float32", "float16", "int64", "int32", "bool")

_EXPRESSION = re.compile(r"(?:(\d+)\*)?([a-z_]+)(?:/(\d+))?")


@dataclass(frozen=True)
class Range:
    """The sizes a symbolic dimension may take: `min` to `max` (None: unbounded), a multiple of `multiple`."""

    min: int = 1
    max: int | None = None
    multiple: int = 1

    def __str__(self) -> str:
        top = "" if self.max is None else f" to {self.max}"
        return f"{self.min}{top or ' and more'}" + (f", multiples of {self.multiple}" if self.multiple > 1 else "")

    def fault(self, size: int) -> str | None:
        """What is wrong with `size`, or None."""
        if size < self.min:
            return f"must be at least {self.min}"
        if self.max is not None and size > self.max:
            return f"must be at most {self.max}"
        if size % self.multiple:
            return f"must be a multiple of {self.multiple}"
        return None


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a graph.

    `dims` holds a number for a fixed dimension and, for a symbolic one, its name or `k*name` or `name/k`
    (`("batch", 3, "8*height", "8*width")`).
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape where the symbols have `sizes`."""
        return tuple(dim if isinstance(dim, int) else _evaluate(dim, sizes) for dim in self.dims)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.dims))})"


@dataclass(frozen=True)
class GraphSpec:
    """Inputs, outputs and the range of each symbol of one graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, Range]

    def check(self, feeds: Mapping[str, npt.NDArray[np.generic]], *, remedy: str = "") -> dict[str, int]:
        """Check that `feeds` fit the inputs: names, dtypes, ranks, sizes, and one size per symbol.

        Returns:
            The size of every symbol.

        Raises:
            TensorError: names the tensor, what was got, what was expected, and `remedy`.
        """
        expected = [spec.name for spec in self.inputs]
        if set(feeds) != set(expected):
            raise TensorError(f"the graph takes the inputs {', '.join(expected)}; got {', '.join(feeds) or 'none'}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            self._check_tensor(spec, feeds[spec.name], sizes, remedy)
        return sizes

    def _check_tensor(
        self, spec: TensorSpec, array: npt.NDArray[np.generic], sizes: dict[str, int], remedy: str
    ) -> None:
        if array.dtype != spec.dtype:
            raise TensorError(f"`{spec.name}` is {array.dtype}; the graph takes {spec.dtype}")
        if array.ndim != len(spec.dims):
            raise TensorError(f"`{spec.name}` is {array.shape}; expected {len(spec.dims)} dimensions: {spec}")
        for dim, size in zip(spec.dims, array.shape, strict=True):
            if isinstance(dim, int):
                fault = None if size == dim else f"must be {dim}"
                name = f"dimension {dim}"
            else:
                known = sizes.setdefault(dim, size)
                fault = self.ranges[dim].fault(size) if known == size else f"must be {known} as in the other inputs"
                name = dim
            if fault:
                raise TensorError(f"`{spec.name}` is {array.shape}; {name} {fault}{remedy}")


def symbol_of(dim: str) -> str:
    """The symbol in a dimension's expression.

    Raises:
        ValueError: the text is not `name`, `k*name` or `name/k`.
    """
    match = _EXPRESSION.fullmatch(dim)
    if match is None:
        raise ValueError(f"{dim!r} is not a dimension")
    return match[2]


def _evaluate(dim: str, sizes: Mapping[str, int]) -> int:
    match = _EXPRESSION.fullmatch(dim)
    if match is None:
        raise ValueError(f"{dim!r} is not a dimension")
    return int(match[1] or 1) * sizes[match[2]] // int(match[3] or 1)

"""The signature of a compiled graph: its tensors, and the check of every feed before an engine gets it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import TensorError

DTYPES = ("float32", "float16", "int64", "int32", "bool")

_EXPRESSION = re.compile(r"(?:([1-9][0-9]*)\*)?([a-z_]+)(?:/([1-9][0-9]*))?")


@dataclass(frozen=True)
class Range:
    """The sizes a symbolic dimension may take: `min` to `max` (None: unbounded), a multiple of `multiple`."""

    min: int = 1
    max: int | None = None
    multiple: int = 1

    def __str__(self) -> str:
        span = f"{self.min} and more" if self.max is None else f"{self.min} to {self.max}"
        return span + (f", multiples of {self.multiple}" if self.multiple > 1 else "")

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

    `dims` has a number for each fixed dimension and a symbol for each free one. The dimensions of an output may also be
    derived from a symbol, as `k*name` or `name/k`: `("batch", 3, "8*height", "8*width")`.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for these sizes of the symbols."""
        return tuple(dim if isinstance(dim, int) else _evaluate(dim, sizes) for dim in self.dims)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.dims))})"


@dataclass(frozen=True)
class GraphSpec:
    """The inputs and outputs of one graph, and the range of each symbol."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, Range]

    def check(
        self, feeds: Mapping[str, npt.NDArray[np.generic]], *, subject: str = "the graph", remedy: str = ""
    ) -> dict[str, int]:
        """Check that `feeds` fit the inputs: names, dtypes, ranks, sizes, and one size per symbol.

        Args:
            feeds: the inputs by name.
            subject: the graph's name in errors.
            remedy: the advice in errors about a size outside its range.

        Returns:
            The size of every symbol.

        Raises:
            TensorError: a feed does not fit; the text names the tensor, what was got and expected, and the remedy.
        """
        expected = [spec.name for spec in self.inputs]
        if set(feeds) != set(expected):
            raise TensorError(f"{subject} takes the inputs {', '.join(expected)}; got {', '.join(feeds) or 'none'}")
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            if fault := self._fault(spec, feeds[spec.name], sizes, remedy):
                raise TensorError(f"{subject}: `{spec.name}` {fault}")
        return sizes

    def _fault(
        self, spec: TensorSpec, array: npt.NDArray[np.generic], sizes: dict[str, int], remedy: str
    ) -> str | None:
        """What is wrong with one input, or None. Its symbols are added to `sizes`."""
        if not isinstance(array, np.ndarray):
            return f"is a {type(array).__name__}; expected a numpy array, {spec}"
        if array.dtype != spec.dtype:
            return f"is {array.dtype}; expected {spec.dtype}"
        if array.ndim != len(spec.dims):
            return f"is {array.shape}; expected {len(spec.dims)} dimensions, {spec}"
        for dim, size in zip(spec.dims, array.shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    return f"is {array.shape}; expected {spec}"
            elif (known := sizes.setdefault(dim, size)) != size:
                return f"is {array.shape}; {dim} must be {known}, as in the other inputs"
            elif fault := self.ranges[dim].fault(size):
                return f"is {array.shape}; {dim} {fault}{remedy and f': {remedy}'}"
        return None


def symbol_of(dim: str) -> str:
    """The symbol in a dimension's expression.

    Raises:
        ValueError: the text is not `name`, `k*name` or `name/k`.
    """
    return _parts(dim)[1]


def _evaluate(dim: str, sizes: Mapping[str, int]) -> int:
    factor, symbol, divisor = _parts(dim)
    return factor * sizes[symbol] // divisor


def _parts(dim: str) -> tuple[int, str, int]:
    match = _EXPRESSION.fullmatch(dim)
    if match is None:
        raise ValueError(f"{dim!r} is not a dimension; expected name, k*name or name/k")
    return int(match[1] or 1), match[2], int(match[3] or 1)

"""MoVQ on overlapping tiles of a large picture, blended: memory for one tile at a time.

Legend: C latent channels · h, w height and width in latent cells · f pixels per latent cell along one axis
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.geometry import Geometry

Array = npt.NDArray[np.float32]
Graph = Callable[[Array, str], Array]
"""(tensor of one sample, description for errors) → tensor of one sample"""

# In latent cells: 512 and 128 px of the published model (docs/performance.md).
SIZE, OVERLAP = 64, 16


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    The tiles of a picture have one size, so that an engine compiles one shape. Neighbours overlap; there their weights
    fall linearly towards their edges and add up to 1. A picture that is not larger than a tile stays whole.

    Attributes:
        factor: f.
        size: a tile's height and width, in latent cells.
        overlap: the least overlap of neighbours, in latent cells.
    """

    factor: int
    size: int
    overlap: int

    @classmethod
    def of(cls, geometry: Geometry) -> Tiling:
        """The tiles for a bundle."""
        cells = geometry.multiple // geometry.factor
        return cls(geometry.factor, -(-SIZE // cells) * cells, OVERLAP)

    def encode(self, graph: Graph, picture: Array, during: str) -> Array:
        """Latents (1, C, h, w) of a picture (1, 3, f·h, f·w)."""
        return self._run(graph, picture, during, self.factor, 1)

    def decode(self, graph: Graph, latents: Array, during: str) -> Array:
        """The picture (1, 3, f·h, f·w) of latents (1, C, h, w)."""
        return self._run(graph, latents, during, 1, self.factor)

    def _run(self, graph: Graph, whole: Array, during: str, cell_in: int, cell_out: int) -> Array:
        """Run `graph` tile by tile; a latent cell is `cell_in` wide in its input and `cell_out` in its output."""
        rows = tile_spans(whole.shape[2] // cell_in, self.size, self.overlap)
        columns = tile_spans(whole.shape[3] // cell_in, self.size, self.overlap)
        count = len(rows) * len(columns)
        if count == 1:
            return graph(whole, during)
        row_weights, column_weights = _weights(rows, cell_out), _weights(columns, cell_out)
        result = np.empty(0, np.float32)
        for number, (i, j) in enumerate(np.ndindex(len(rows), len(columns)), start=1):
            tile = whole[:, :, _scaled(rows[i], cell_in), _scaled(columns[j], cell_in)]
            made = graph(np.ascontiguousarray(tile), f"{during}, tile {number} of {count}")
            if number == 1:
                result = np.zeros((*made.shape[:2], rows[-1].stop * cell_out, columns[-1].stop * cell_out), np.float32)
            made = made * (row_weights[i][:, None] * column_weights[j])
            result[:, :, _scaled(rows[i], cell_out), _scaled(columns[j], cell_out)] += made
        return result


def tile_spans(length: int, size: int, overlap: int) -> list[slice]:
    """The tiles along an axis, spread evenly from its first cell to its last."""
    if length <= size:
        return [slice(0, length)]
    gaps = -(-(length - size) // (size - overlap))
    return [
        slice(start, start + size) for start in (round(index * (length - size) / gaps) for index in range(gaps + 1))
    ]


def _weights(spans: list[slice], cell: int) -> list[Array]:
    """The weights of each tile along an axis, (cell·size,); at every place they add up to 1."""
    ramps = []
    for index, span in enumerate(spans):
        places = np.arange(span.start * cell, span.stop * cell) + 0.5
        ramp = np.ones(len(places))
        if index > 0:  # rises from its own edge to the edge of the tile before
            rise = (places / cell - span.start) / (spans[index - 1].stop - span.start)
            ramp = np.minimum(ramp, rise)
        if index + 1 < len(spans):
            fall = (span.stop - places / cell) / (span.stop - spans[index + 1].start)
            ramp = np.minimum(ramp, fall)
        ramps.append(ramp)
    total = np.zeros(spans[-1].stop * cell)
    for span, ramp in zip(spans, ramps, strict=True):
        total[_scaled(span, cell)] += ramp
    return [(ramp / total[_scaled(span, cell)]).astype(np.float32) for span, ramp in zip(spans, ramps, strict=True)]


def _scaled(span: slice, cell: int) -> slice:
    return slice(span.start * cell, span.stop * cell)

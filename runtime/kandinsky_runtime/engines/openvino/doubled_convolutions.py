"""3x3 convolutions of a map that was doubled by repeating its cells, moved before the doubling.

Of the nine cells under a kernel on the doubled map, most are repetitions: only 2x2 differ. Which kernel rows (and
columns) are on the same cell depends on the parity of the output's row: {0}, {1, 2} for even rows, {0, 1}, {2} for odd
rows. So each parity has a 2x2 kernel with the sums of these weights, and the four results are interleaved. The
convolution is the same, with 4/9 of the multiplications. Only the rounding of the summed weights differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.openvino.nodes import constant, with_constant
from kandinsky_runtime.engines.openvino.rewriting import rewrite_graph
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

# The smallest map, in cells before doubling, whose convolution is rewritten. The sums have 16/9 of the size of the
# weights and stay in memory in float32, in addition to the processor's copy. On a small map they save little: in the
# full UNet at 768 px, the convolution on 12x12 cells has 151 of 272 MB and 0.7 of 5% of the work.
LEAST_CELLS = 16 * 16

# For each parity of the output's row: the rows of the 3x3 kernel that make up each row of the 2x2 kernel. The same
# holds for columns.
_ROWS = (((0,), (1, 2)), ((0, 1), (2,)))

# The attributes of an Interpolate that repeats every cell.
_DOUBLING = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


@dataclass(frozen=True)
class _Doubled:
    """A convolution of a doubled map.

    Attributes:
        source: the map before doubling.
        result: the last output.
        weights: the kernels (O, I, 3, 3).
        bias: the bias (1, O, 1, 1); None without one.
    """

    source: Any
    result: Any
    weights: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None


def convolve_before_doubling(model: Any) -> Outcome:
    """Compute the 3x3 convolutions of doubled maps before the doubling, in place.

    Args:
        model: an `openvino.Model` of static shapes.
    """
    return rewrite_graph(model, reads_doubled_map, _check, _rewrite)


def reads_doubled_map(node: Any) -> bool:
    """Whether a node is a convolution of an enlarged map, which may be rewritten for some shape of the graph."""
    return bool(node.get_type_name() == "Convolution" and _enlarging(node).get_type_name() == "Interpolate")


def by_parity(weights: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The 2x2 kernels (O, I, 2, 2) for 3x3 kernels (O, I, 3, 3), in the dtype of `weights`.

    There is one for each output cell: (even, even), (even, odd), (odd, even) and (odd, odd).
    """
    outputs, inputs = weights.shape[:2]
    flat = weights.astype(np.float32, copy=False).reshape(outputs * inputs, 9)
    kernels = []
    for rows in _ROWS:
        for columns in _ROWS:
            sums = np.zeros((3, 3, 2, 2), np.float32)
            for i in range(2):
                for j in range(2):
                    sums[np.ix_(rows[i], columns[j], [i], [j])] = 1
            kernels.append((flat @ sums.reshape(9, 4)).reshape(outputs, inputs, 2, 2).astype(weights.dtype, copy=False))
    return kernels


def _rewrite(doubled: _Doubled) -> None:
    from openvino import opset13 as ops

    parts = []
    for parity, kernel in enumerate(by_parity(doubled.weights)):
        odd_row, odd_column = divmod(parity, 2)
        part = ops.convolution(
            doubled.source, ops.constant(kernel), [1, 1], [1 - odd_row, 1 - odd_column], [odd_row, odd_column], [1, 1]
        )
        parts.append(part if doubled.bias is None else ops.add(part, ops.constant(doubled.bias)))
    doubled.result.replace(ops.depth_to_space(ops.concat(parts, 1), "blocks_first", 2).output(0))


def _check(node: Any) -> _Doubled:
    """What a convolution of an enlarged map computes."""
    weights, attributes = constant(node.input_value(1)), node.get_attributes()
    if weights is None:
        raise Refused("its weights are not a constant")
    kernel = "x".join(map(str, weights.shape[2:]))
    require(kernel == "3x3", f"its kernel is {kernel}; expected 3x3")
    for name in ("strides", "dilations", "pads_begin", "pads_end"):
        values = list(attributes[name])
        require(values == [1, 1], f"its {name} are {values}; expected [1, 1]")
    require(attributes["auto_pad"] == "explicit", f"its padding is {attributes['auto_pad']}; expected explicit")
    enlarging = _enlarging(node)
    source, attributes = enlarging.input_value(0), enlarging.get_attributes()
    batch, channels, height, width = source.get_shape()
    for name, expected in _DOUBLING.items():
        require(
            attributes[name] == expected, f"the map is enlarged with {name} {attributes[name]}; expected {expected}"
        )
    require(not any((*attributes["pads_begin"], *attributes["pads_end"])), "the enlarged map is padded")
    require(height * width >= LEAST_CELLS, f"the map has {height * width} cells; at least {LEAST_CELLS} are worth it")
    size, doubled = list(enlarging.get_output_shape(0)), [batch, channels, 2 * height, 2 * width]
    require(size == doubled, f"the map is enlarged to {size}; expected {doubled}")
    result, bias = with_constant(node.output(0), "Add")
    if result is None or bias.shape != (1, len(weights), 1, 1):
        return _Doubled(source, node.output(0), weights, None)
    return _Doubled(source, result, weights, bias)


def _enlarging(convolution: Any) -> Any:
    """The node whose output a convolution reads."""
    return convolution.input_value(0).get_node()

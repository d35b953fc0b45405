"""3x3 convolutions of a map that was doubled by repeating its cells, done on the map before it was doubled.

Of the nine cells under a kernel on the doubled map, most repeat each other: only 2x2 differ. Which kernel rows (and
columns) fall on one cell depends on the parity of the output's row: {0}, {1, 2} for even ones, {0, 1}, {2} for odd
ones. So each parity has a 2x2 kernel, the sums of these weights, and the four results interleave. This is the same
convolution with 4/9 of the multiplications; what differs is the rounding of the summed weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.openvino.nodes import constant, with_constant

# The smallest map, in cells before doubling, whose convolution is rewritten: the sums are 16/9 of the weights, kept in
# float32 beside what the processor makes of them, and on a small map they save little (of the full UNet at 768 px, the
# one on 12x12 cells has 151 of 272 MB and 0.7 of 5% of the work).
LEAST_CELLS = 16 * 16

# The rows of a 3x3 kernel that fall on each row of the 2x2 one, by the parity of the output's row; so the columns.
_ROWS = (((0,), (1, 2)), ((0, 1), (2,)))


@dataclass(frozen=True)
class _Doubled:
    """A convolution of a doubled map that was found: the map, the last output, and what it does in between."""

    source: Any
    result: Any
    weights: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None


def convolve_before_doubling(model: Any) -> int:
    """Do the 3x3 convolutions of doubled maps on the maps themselves, in place.

    Args:
        model: an `openvino.Model` of static shapes.

    Returns:
        The number of convolutions that were rewritten. Others are left as they are.
    """
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    found = [doubled for node in nodes if (doubled := _found(node)) is not None]
    for doubled in found:
        _rewrite(doubled)
    model.validate_nodes_and_infer_types()
    return len(found)


def reads_doubled_map(node: Any) -> bool:
    """Whether a node is a convolution that could be rewritten in some shape of the graph."""
    return node.get_type_name() == "Convolution" and _doubling(node) is not None


def by_parity(weights: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The 2x2 kernels (O, I, 2, 2) of a 3x3 one (O, I, 3, 3), for output cells (even, even), (even, odd), (odd, even)
    and (odd, odd), in the dtype of `weights`."""
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


def _found(node: Any) -> _Doubled | None:
    """What a convolution does on a doubled map, if it does."""
    weights = constant(node.input_value(1))
    attributes = node.get_attributes()
    if (
        weights is None
        or weights.shape[2:] != (3, 3)
        or any(list(attributes[name]) != [1, 1] for name in ("strides", "dilations", "pads_begin", "pads_end"))
        or attributes["auto_pad"] != "explicit"
    ):
        return None
    doubling = _doubling(node)
    if doubling is None:
        return None
    source = doubling.input_value(0)
    batch, channels, height, width = source.get_shape()
    attributes = doubling.get_attributes()
    if (
        attributes["mode"] != "nearest"
        or attributes["coordinate_transformation_mode"] != "asymmetric"
        or attributes["nearest_mode"] != "floor"
        or any((*attributes["pads_begin"], *attributes["pads_end"]))
        or height * width < LEAST_CELLS
        or list(doubling.get_output_shape(0)) != [batch, channels, 2 * height, 2 * width]
    ):
        return None
    result, bias = with_constant(node.output(0), "Add")
    if result is None or bias.shape != (1, len(weights), 1, 1):
        return _Doubled(source, node.output(0), weights, None)
    return _Doubled(source, result, weights, bias)


def _doubling(node: Any) -> Any | None:
    """The Interpolate that a convolution reads, or None."""
    source = node.input_value(0).get_node()
    return source if source.get_type_name() == "Interpolate" else None

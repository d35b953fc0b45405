"""Weights stored in bf16 if OpenVINO computes in bf16: half the bytes to keep and to read.

When OpenVINO compiles a graph, it rounds the weights of convolutions and matrix products itself, to nearest, ties to
even. This module rounds in the same way, so that the bits are the same. OpenVINO uses weights stored in bf16 unchanged
if a Convert back to float32, marked as a decompression, follows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.engines.openvino.attributes import give_attribute
from kandinsky_runtime.engines.openvino.nodes import constant

WEIGHTED = ("Convolution", "MatMul")


def round_weights(model: Any, wanted: Callable[[Any], bool] = lambda node: True) -> int:
    """Store the float32 weights of convolutions and matrix products in bf16, in place.

    Args:
        model: an `openvino.Model`.
        wanted: a function that returns whether a node's weights are to be rounded.

    Returns:
        The number of nodes whose weights were rounded. Weights that are not finite are left unchanged.
    """
    import openvino
    from openvino import opset13 as ops

    count = 0
    for node in model.get_ordered_ops():
        if node.get_type_name() not in WEIGHTED or not wanted(node):
            continue
        weights = constant(node.input_value(1))
        if weights is None or weights.dtype != np.float32 or not np.isfinite(weights).all():
            continue
        stored = openvino.Tensor(openvino.Type.bf16, openvino.Shape(weights.shape))
        stored.data.view(np.uint16)[...] = upper_halves(weights)
        node.input(1).replace_source_output(widened(ops.constant(stored, shared_memory=True)).output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count


def upper_halves(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits of finite float32 values rounded to bf16, to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)


def widened(weights: Any) -> Any:
    """A node that converts stored weights to float32, marked so that OpenVINO uses the stored values unchanged."""
    from openvino import opset13 as ops

    return give_attribute(ops.convert(weights, "f32"), "decompression")

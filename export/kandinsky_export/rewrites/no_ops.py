"""Identity, casts to the type there already, x + 0 and x · 1 → nothing."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

_NEUTRAL = {"Add": 0.0, "Mul": 1.0}


def remove_no_ops(model: onnx.ModelProto) -> int:
    """Connect the readers of each node that changes nothing to what the node reads, and drop the node.

    A node whose result is a graph output stays: the output keeps its name and its producer.
    """
    graph = model.graph
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL and len(tensor.dims) <= 1
    }
    types = _element_types(model)
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    dropped = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source.get(name, name)
        kept = _passed_through(node, constants, types)
        if kept is not None and node.output[0] not in outputs:
            source[node.output[0]] = kept
            dropped.append(node)
    for node in dropped:
        graph.node.remove(node)
    return len(dropped)


def _passed_through(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], types: dict[str, int]
) -> str | None:
    """The input that the node returns unchanged, or None."""
    if node.op_type == "Identity":
        return str(node.input[0])
    if node.op_type == "Cast":
        target = node.attribute[0].i
        return str(node.input[0]) if types.get(node.input[0]) == target else None
    if node.op_type in _NEUTRAL:
        for value, other in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
            constant = constants.get(other)
            # A scalar or a single element cannot widen the shape of a tensor of rank 1 and more.
            if constant is not None and constant.size == 1 and constant.item() == _NEUTRAL[node.op_type] and value not in constants:
                return str(value)
    return None


def _element_types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}

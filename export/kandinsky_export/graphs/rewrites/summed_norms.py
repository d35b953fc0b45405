"""InstanceNormalization of small groups → their sums: (x - mean) / sqrt(mean of squares + epsilon).

TensorRT's builder makes one or two kernels of the sums of a small group, with the scale, the shift and SiLU in them.
Its own group norm is three kernels. For large groups the sums become five, so these norms stay. The nodes of the sums
have marked names (`is_sum`). They compute in float32 in a graph of fewer bits, because fp16 may not hold the squares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kandinsky_export.graphs.rewrites.nodes import name_of
from kandinsky_export.graphs.rewrites.values import constants_of, replace_nodes
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

# The most elements of a group. Counted with TensorRT-RTX 1.7.1: 20,736 come out as one or two kernels, 36,864 as five.
LARGEST_GROUP = 25_000

_MARK = "/as_sums/"
# (B, groups, elements)
_RANK, _ELEMENTS = 3, 2


def is_sum(node: onnx.NodeProto) -> bool:
    """Whether a node is one of those that take the place of a norm."""
    return _MARK in node.name


def sum_small_norms(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Outcome:
    """Replace each norm whose groups have at most `LARGEST_GROUP` elements.

    Args:
        model: a float32 graph of opset 17 or earlier, changed in place.
        shapes: the shapes of its inputs, the largest that the graph is meant for.
    """
    graph, outcome = model.graph, Outcome()
    constants, known = constants_of(graph), _shapes(model, shapes)
    norms = [node for node in graph.node if node.op_type == "InstanceNormalization"]
    instead: dict[int, list[onnx.NodeProto]] = {}
    for norm in norms:
        try:
            _check(norm, known.get(norm.input[0]), constants)
        except Refused as refusal:
            outcome.refuse(name_of(norm), refusal)
        else:
            epsilon = np.array(helper.get_node_attr_value(norm, "epsilon"), np.float32)
            graph.initializer.append(numpy_helper.from_array(epsilon, f"{norm.name}{_MARK}epsilon"))
            instead[id(norm)] = _sums(norm)
    replace_nodes(graph, instead)
    outcome.rewritten = len(instead)
    return outcome


def norm_of_sums(
    node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> tuple[str, float] | None:
    """The value that sums normalise, and epsilon, if a node is the last of such sums.

    Args:
        node: any node.
        made_by: the nodes of the graph by their outputs.
        constants: the constants of the graph by name.
    """
    if node.op_type != "Div" or not is_sum(node):
        return None
    difference, deviation = made_by[node.input[0]], made_by[node.input[1]]
    total = made_by[deviation.input[0]]
    return difference.input[0], float(numpy_helper.to_array(constants[total.input[1]]))


def _shapes(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of all values that are known for inputs of these shapes."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
            dim.dim_value = size
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input)
        if all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def _check(norm: onnx.NodeProto, shape: tuple[int, ...] | None, constants: Mapping[str, onnx.TensorProto]) -> None:
    if shape is None or len(shape) != _RANK:
        raise Refused(f"its input is {shape}; expected (batch, groups, elements)")
    require(
        shape[_ELEMENTS] <= LARGEST_GROUP,
        f"its groups have {shape[_ELEMENTS]} elements; expected {LARGEST_GROUP} or less",
    )
    for name, neutral in ((norm.input[1], 1), (norm.input[2], 0)):
        values = constants.get(name)
        is_neutral = values is not None and bool(np.all(numpy_helper.to_array(values) == neutral))
        require(is_neutral, f"{name} is not {neutral} everywhere")


def _sums(norm: onnx.NodeProto) -> list[onnx.NodeProto]:
    def value(part: str) -> str:
        return f"{norm.name}{_MARK}{part}"

    def node(kind: str, inputs: list[str], made: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [made], name=f"{norm.name}{_MARK}{kind}.{made}", **attributes)

    mean = {"axes": [_ELEMENTS], "keepdims": 1}
    return [
        node("ReduceMean", [norm.input[0]], value("mean"), **mean),
        node("Sub", [norm.input[0], value("mean")], value("difference")),
        node("Mul", [value("difference"), value("difference")], value("square")),
        node("ReduceMean", [value("square")], value("variance"), **mean),
        node("Add", [value("variance"), value("epsilon")], value("sum")),
        node("Sqrt", [value("sum")], value("deviation")),
        node("Div", [value("difference"), value("deviation")], norm.output[0]),
    ]

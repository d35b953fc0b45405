"""One walk over an ONNX graph with concrete input shapes: the type and shape of every tensor, the value of those that
follow from shapes and constants alone, and whether a tensor depends on the data.

It uses ONNX's own inference and reference implementation, node by node, so that a shape that is computed in the graph
is known where it is used. Weights are not read: they are in another file, and no shape depends on them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[np.generic]

# Shapes, and what is computed of them, are small; nothing larger is evaluated.
_MOST_EVALUATED = 4096
_WITHOUT_NUMPY = onnx.TensorProto.BFLOAT16  # no shape has this type, so that its values need not be known


class Origin(enum.IntEnum):
    """What a tensor's values follow from."""

    CONSTANT = 0
    SHAPES = 1
    DATA = 2


@dataclass(frozen=True)
class Value:
    """A tensor.

    Attributes:
        dtype: its element type, a number of `onnx.TensorProto`.
        shape: its shape; None if it does not follow from the inputs' shapes.
        origin: what its values depend on.
        array: its values; None if they are not known.
    """

    dtype: int
    shape: tuple[int, ...] | None
    origin: Origin
    array: Array | None = None


@dataclass(frozen=True)
class Site:
    """A node with its tensors; None for an omitted input or output.

    Attributes:
        node: the node.
        schema: the schema of its operator in this opset; None for an unknown operator.
        inputs, outputs: its tensors.
        fault: why the types and shapes of the outputs cannot be inferred, or None.
    """

    node: onnx.NodeProto
    schema: onnx.defs.OpSchema | None
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value | None, ...]
    fault: str | None

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value, or `default`; text as str."""
        for item in self.node.attribute:
            if item.name == name:
                value = onnx.helper.get_attribute_value(item)
                return value.decode() if isinstance(value, bytes) else value
        return default


def walk(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Site]:
    """Every node in order.

    Args:
        model: its nodes are sorted, as ONNX demands; it is not changed.
        shapes: of the graph's inputs.
    """
    opset = default_opset(model)
    values: dict[str, Value | None] = {item.name: _initializer(item) for item in model.graph.initializer}
    for item in model.graph.input:
        if item.name not in values:
            values[item.name] = Value(item.type.tensor_type.elem_type, shapes[item.name], Origin.DATA)
    for node in model.graph.node:
        site = _visit(node, opset, values)
        values |= zip(node.output, site.outputs, strict=True)
        yield site


def default_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators."""
    return next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)


def _initializer(tensor: onnx.TensorProto) -> Value:
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    known = inside and tensor.data_type != _WITHOUT_NUMPY and np.prod(tensor.dims) <= _MOST_EVALUATED
    array = numpy_helper.to_array(tensor) if known else None
    return Value(tensor.data_type, tuple(tensor.dims), Origin.CONSTANT, array)


def _visit(node: onnx.NodeProto, opset: int, values: Mapping[str, Value | None]) -> Site:
    inputs = tuple(values.get(name) if name else None for name in node.input)
    nothing = (None,) * len(node.output)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return Site(node, None, inputs, nothing, "ONNX knows no such operator in this opset")
    if lost := [name for name in node.input if name and name not in values]:
        return Site(node, schema, inputs, nothing, f"nothing before it makes its input {lost[0]}")
    if any(name and value is None for name, value in zip(node.input, inputs, strict=True)):
        return Site(node, schema, inputs, nothing, None)  # the node that made it has the fault
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            {name: _type(value) for name, value in given.items()},
            {name: numpy_helper.from_array(value.array) for name, value in given.items() if value.array is not None},
            opset_imports=[onnx.helper.make_opsetid(node.domain, opset)],
        )
        arrays = _evaluated(node, opset, given)
    except Exception as error:  # ONNX raises errors of its C++ part that have no common base
        return Site(node, schema, inputs, nothing, " ".join(str(error).split()))
    origin = max((value.origin for value in given.values()), default=Origin.CONSTANT)
    if node.op_type in ("Shape", "Size"):
        origin = min(origin, Origin.SHAPES)
    outputs = tuple(
        _value(inferred[name], origin, arrays.get(name)) if name in inferred else None for name in node.output
    )
    return Site(node, schema, inputs, outputs, None)


def _type(value: Value) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(value.dtype, value.shape)


def _value(inferred: onnx.TypeProto, origin: Origin, array: Array | None) -> Value:
    tensor = inferred.tensor_type
    if array is not None:
        return Value(tensor.elem_type, array.shape, origin, None if tensor.elem_type == _WITHOUT_NUMPY else array)
    dims = tensor.shape.dim if tensor.HasField("shape") else [onnx.TensorShapeProto.Dimension()]
    known = all(dim.HasField("dim_value") for dim in dims)
    return Value(tensor.elem_type, tuple(dim.dim_value for dim in dims) if known else None, origin)


def _evaluated(node: onnx.NodeProto, opset: int, given: Mapping[str, Value]) -> dict[str, Array]:
    """The outputs of a node that follow from known values, by name."""
    if node.op_type == "Shape" and (shape := given[node.input[0]].shape) is not None:
        probe: dict[str, Array] = {node.input[0]: np.broadcast_to(np.zeros((), np.float32), shape)}
    else:
        probe = {name: value.array for name, value in given.items() if value.array is not None}
        if len(probe) < len(given) or sum(array.size for array in probe.values()) > _MOST_EVALUATED:
            return {}
    results = ReferenceEvaluator(node, opsets={node.domain: opset}).run(None, probe)
    return dict(zip(node.output, (np.asarray(result) for result in results), strict=True))

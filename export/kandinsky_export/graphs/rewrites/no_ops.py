"""Identity, casts to the type there already, x + 0 and x · 1 → nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.nodes import name_of, require_inner
from kandinsky_export.graphs.rewrites.values import drop_nodes, read_instead
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

_NEUTRAL = {"Add": 0.0, "Mul": 1.0}


def remove_no_ops(model: onnx.ModelProto) -> Outcome:
    """Connect the readers of each node that changes nothing to what the node reads, and drop the node.

    A node whose result is a graph output stays: the output keeps its name and its producer. So does x + 0 if the zero
    may widen the shape of x. Weights that are not attached yet, or are in another file, are not needed.
    """
    graph = model.graph
    known = _known(model)
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    outcome, dropped = Outcome(), []
    for node in graph.node:
        read_instead([node], source)
        try:
            kept = _passed_through(node, known)
            if kept is None:
                continue
            require_inner(node, outputs)
        except Refused as refusal:
            outcome.refuse(name_of(node), refusal)
        else:
            source[node.output[0]] = kept
            dropped.append(node)
    drop_nodes(graph, dropped)
    outcome.rewritten = len(dropped)
    return outcome


@dataclass(frozen=True)
class _Known:
    """What is known of a graph's values without running it: small constants, element types, ranks, by name."""

    constants: Mapping[str, npt.NDArray[Any]]
    types: Mapping[str, int]
    ranks: Mapping[str, int]


def _known(model: onnx.ModelProto) -> _Known:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return _Known(
        constants={
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in graph.initializer
            if tensor.data_location != onnx.TensorProto.EXTERNAL and len(tensor.dims) <= 1
        },
        types={name: value.elem_type for name, value in values.items()}
        | {tensor.name: tensor.data_type for tensor in graph.initializer},
        ranks={name: len(value.shape.dim) for name, value in values.items() if value.HasField("shape")}
        | {tensor.name: len(tensor.dims) for tensor in graph.initializer},
    )


def _passed_through(node: onnx.NodeProto, known: _Known) -> str | None:
    """The input that the node returns unchanged, or None if it computes something.

    Raises:
        Refused: the node looks like x + 0 or x · 1, but may change the shape of x.
    """
    if node.op_type == "Identity":
        return str(node.input[0])
    if node.op_type == "Cast":
        (target,) = (attribute.i for attribute in node.attribute if attribute.name == "to")
        return str(node.input[0]) if known.types.get(node.input[0]) == target else None
    if node.op_type in _NEUTRAL:
        left, right = node.input
        for value, other in ((left, right), (right, left)):
            if _is_neutral(other, _NEUTRAL[node.op_type], value, known):
                return str(value)
    return None


def _is_neutral(name: str, number: float, value: str, known: _Known) -> bool:
    """Whether a constant is `number`, once; refuses one that may change the shape of `value`."""
    constant = known.constants.get(name)
    if constant is None or constant.size != 1 or constant.item() != number:
        return False
    require(value not in known.constants, f"both operands are constants: {value} and {name}")
    fits = constant.ndim == 0 or known.ranks.get(value, 0) >= 1
    require(fits, f"{name} may widen the shape of {value}, whose rank is {known.ranks.get(value, 'unknown')}")
    return True

"""Attention that scales its scores → attention that scales its queries.

The product of unscaled queries and keys is the largest value of the layer, up to the head's width times what is needed:
in fp16 it overflows first. TensorRT fuses attention only where the scale comes before the product (its guide on fused
attention asks for it). A scale that is a power of two, as for heads of 16 and 64, changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from kandinsky_export.graphs.rewrites.nodes import name_of
from kandinsky_export.graphs.rewrites.values import values_read
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require


@dataclass(frozen=True)
class _Match:
    """Softmax(Mul(MatMul(q, k), scale)), whose products nothing else reads."""

    softmax: onnx.NodeProto
    scaling: onnx.NodeProto
    product: onnx.NodeProto
    scale: str


def scale_queries(model: onnx.ModelProto) -> Outcome:
    """Turn each Softmax(Mul(MatMul(q, k), scale)) into Softmax(MatMul(Mul(q, scale), k)).

    The scale must be one number, a constant of the graph, and nothing else may read the product or its multiple.
    """
    graph = model.graph
    numbers = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_location != onnx.TensorProto.EXTERNAL and all(size == 1 for size in tensor.dims)
    }
    made_by = {name: node for node in graph.node for name in node.output}
    reads = [name for node in graph.node for name in values_read([node])] + [value.name for value in graph.output]
    outcome, nodes = Outcome(), list(graph.node)
    for softmax in graph.node:
        if softmax.op_type != "Softmax":
            continue
        try:
            match = _check(softmax, made_by, numbers, reads)
        except Refused as refusal:
            outcome.refuse(name_of(softmax), refusal)
        else:
            _rewrite(nodes, match)
            outcome.rewritten += 1
    if outcome.rewritten:
        del graph.node[:]
        graph.node.extend(nodes)
    return outcome


def _check(
    softmax: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], numbers: set[str], reads: list[str]
) -> _Match:
    scaling = made_by.get(softmax.input[0])
    if scaling is None or scaling.op_type != "Mul":
        raise Refused(f"its scores come from {_kind(scaling)}; expected Mul")
    scales = [name for name in scaling.input if name in numbers]
    products = [name for name in scaling.input if name not in numbers]
    require(len(scales) == len(products) == 1, f"{len(scales)} factors of its scores are single numbers; expected 1")
    product = made_by.get(products[0])
    if product is None or product.op_type != "MatMul":
        raise Refused(f"its scores are multiples of the result of {_kind(product)}; expected MatMul")
    for what, node in (("product", product), ("multiple", scaling)):
        count = reads.count(node.output[0])
        require(count == 1, f"the {what} {node.output[0]} is read {count} times; expected once")
    return _Match(softmax, scaling, product, scales[0])


def _rewrite(nodes: list[onnx.NodeProto], match: _Match) -> None:
    product = match.product
    scaled = f"{product.input[0]}/scaled_for/{product.name}"
    nodes.remove(match.scaling)
    nodes.insert(
        nodes.index(product),
        onnx.helper.make_node("Mul", [product.input[0], match.scale], [scaled], name=match.scaling.name),
    )
    product.input[0] = scaled
    match.softmax.input[0] = product.output[0]


def _kind(node: onnx.NodeProto | None) -> str:
    return "an input or a weight" if node is None else str(node.op_type)

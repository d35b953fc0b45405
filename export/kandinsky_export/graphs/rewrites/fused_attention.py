"""Softmax between two products → ONNX Runtime's MultiHeadAttention, which its CUDA provider runs as one kernel.

The operator takes tokens (B, S, C) with the heads side by side, as they are before they are split:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.values import values_read

DOMAIN = "com.microsoft"
_TO_HEADS = [0, 2, 1, 3]  # (B, S, N, D) <-> (B, N, S, D)


@dataclass(frozen=True)
class _Graph:
    made_by: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]
    reads: list[str]

    def made(self, value: str, kind: str) -> onnx.NodeProto | None:
        """The node that makes a value, if it is of this kind."""
        node = self.made_by.get(value)
        return node if node is not None and node.op_type == kind else None

    def number(self, value: str) -> float | None:
        """A constant of one element."""
        tensor = self.constants.get(value)
        return (
            None
            if tensor is None or any(size != 1 for size in tensor.dims)
            else float(numpy_helper.to_array(tensor).reshape(-1)[0])
        )

    def reader(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
        """The only node that reads a node's output, if it is of this kind."""
        value = node.output[0]
        found = [item for item in self.made_by.values() if value in item.input]
        return found[0] if self.reads.count(value) == 1 and found[0].op_type == kind else None


def fuse_attention(model: onnx.ModelProto) -> int:
    """Replace each attention whose heads are split by Reshape and Transpose, over tokens joined in any number of parts.

    What does not look like that is left alone. Dead nodes stay behind.
    """
    graph = model.graph
    known = _Graph(
        {name: node for node in graph.node for name in node.output},
        {item.name: item for item in graph.initializer if item.data_location != onnx.TensorProto.EXTERNAL},
        [name for node in graph.node for name in values_read([node])] + [value.name for value in graph.output],
    )
    fused: dict[int, list[onnx.NodeProto]] = {}
    for softmax in graph.node:
        if softmax.op_type == "Softmax" and (found := _fused(known, softmax)) is not None:
            joined, nodes = found
            fused[id(joined)] = nodes
    nodes = [new for node in graph.node for new in fused.get(id(node), [node])]
    if fused:
        del graph.node[:]
        graph.node.extend(nodes)
    return len(fused)


def _fused(known: _Graph, softmax: onnx.NodeProto) -> tuple[onnx.NodeProto, list[onnx.NodeProto]] | None:
    """The node that joins the heads, and what takes its place."""
    scores, scale = _unscaled(known, softmax.input[0])
    product = known.made(scores, "MatMul")
    context = known.reader(softmax, "MatMul")
    if product is None or context is None or context.input[0] != softmax.output[0]:
        return None
    query, query_scale = _unscaled(known, product.input[0])
    keys = known.made(product.input[1], "Transpose")
    transposed = known.reader(context, "Transpose")
    joined = None if transposed is None else known.reader(transposed, "Reshape")
    if keys is None or _perm(keys) != [0, 1, 3, 2] or joined is None or _perm(transposed) != _TO_HEADS:
        return None
    parts = [_parts(known, name) for name in (query, keys.input[0], context.input[1])]
    heads = {number for part in parts for _, number in part}
    if not all(parts) or len(parts[0]) != 1 or len(heads) != 1:
        return None
    nodes, inputs = [], []
    for what, part in zip(("query", "key", "value"), parts, strict=True):
        names = [name for name, _ in part]
        if len(names) > 1:
            name = f"{softmax.output[0]}/{what}"
            nodes.append(onnx.helper.make_node("Concat", names, [name], name=name, axis=1))
            names = [name]
        inputs += names
    nodes.append(
        onnx.helper.make_node(
            "MultiHeadAttention", inputs, [joined.output[0]], name=f"{softmax.name}/fused", domain=DOMAIN,
            num_heads=heads.pop(), scale=scale * query_scale,
        )
    )  # fmt: skip
    return joined, nodes


def _unscaled(known: _Graph, value: str) -> tuple[str, float]:
    """What a value is before it is multiplied by a number, and the number."""
    node = known.made(value, "Mul")
    if node is not None:
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            if (number := known.number(other)) is not None:
                return name, number
    return value, 1.0


def _parts(known: _Graph, value: str) -> list[tuple[str, int]]:
    """The tokens that a value (B, N, S, D) is made of along S, and the number of heads of each; empty if it is not."""
    join = known.made(value, "Concat")
    if join is not None:
        if onnx.helper.get_node_attr_value(join, "axis") not in (2, -2):
            return []
        parts = [_parts(known, name) for name in join.input]
        return [part for found in parts for part in found] if all(parts) else []
    transpose = known.made(value, "Transpose")
    split = None if transpose is None or _perm(transpose) != _TO_HEADS else known.made(transpose.input[0], "Reshape")
    shape = None if split is None else known.constants.get(split.input[1])
    if split is None or shape is None:
        return []
    sizes = numpy_helper.to_array(shape).tolist()
    return [(split.input[0], sizes[2])] if len(sizes) == 4 and sizes[:2] == [0, 0] and min(sizes[2:]) > 0 else []


def _perm(transpose: onnx.NodeProto | None) -> list[int]:
    return [] if transpose is None else list(onnx.helper.get_node_attr_value(transpose, "perm"))

"""Softmax between two products → ONNX Runtime's MultiHeadAttention, which its CUDA provider runs as one kernel.

The operator takes tokens (B, S, C) with the heads side by side, as they are before they are split:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.nodes import name_of
from kandinsky_export.graphs.rewrites.values import constants_of, replace_nodes, values_read
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

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


@dataclass(frozen=True)
class _Match:
    """An attention: its softmax, the node that joins the heads, the tokens of each input, heads and scale."""

    softmax: onnx.NodeProto
    joined: onnx.NodeProto
    parts: Mapping[str, list[str]]
    heads: int
    scale: float


def fuse_attention(model: onnx.ModelProto) -> Outcome:
    """Replace each attention whose heads are split by Reshape and Transpose, over tokens joined in any number of parts.

    Another attention is left as it is. Dead nodes stay behind.
    """
    graph = model.graph
    known = _Graph(
        {name: node for node in graph.node for name in node.output},
        constants_of(graph),
        [name for node in graph.node for name in values_read([node])] + [value.name for value in graph.output],
    )
    outcome = Outcome()
    fused: dict[int, list[onnx.NodeProto]] = {}
    for softmax in graph.node:
        if softmax.op_type != "Softmax":
            continue
        try:
            match = _check(known, softmax)
        except Refused as refusal:
            outcome.refuse(name_of(softmax), refusal)
        else:
            fused[id(match.joined)] = _nodes(match)
    replace_nodes(graph, fused)
    outcome.rewritten = len(fused)
    return outcome


def _check(known: _Graph, softmax: onnx.NodeProto) -> _Match:
    """The attention around a softmax."""
    scores, scale = _unscaled(known, softmax.input[0])
    product = known.made(scores, "MatMul")
    if product is None:
        raise Refused("its scores are not a product of queries and keys")
    context = known.reader(softmax, "MatMul")
    if context is None or context.input[0] != softmax.output[0]:
        raise Refused("its weights are not read by one product with the values alone")
    query, query_scale = _unscaled(known, product.input[0])
    keys = known.made(product.input[1], "Transpose")
    if keys is None or _perm(keys) != [0, 1, 3, 2]:
        raise Refused(f"its keys are transposed by {_perm(keys)}; expected [0, 1, 3, 2]")
    transposed = known.reader(context, "Transpose")
    if transposed is None or _perm(transposed) != _TO_HEADS:
        raise Refused(f"its heads are transposed by {_perm(transposed)}; expected {_TO_HEADS}")
    joined = known.reader(transposed, "Reshape")
    if joined is None:
        raise Refused("its heads are not joined by one Reshape alone")
    sources = {"query": query, "key": keys.input[0], "value": context.input[1]}
    parts = {what: _parts(known, value) for what, value in sources.items()}
    for what, found in parts.items():
        require(bool(found), f"its {what} is not split into heads by Reshape (0, 0, N, D) and Transpose {_TO_HEADS}")
    require(len(parts["query"]) == 1, f"its query is joined of {len(parts['query'])} parts; expected 1")
    heads = {number for found in parts.values() for _, number in found}
    require(len(heads) == 1, f"its parts have {sorted(heads)} heads; expected one number")
    names = {what: [name for name, _ in found] for what, found in parts.items()}
    return _Match(softmax, joined, names, heads.pop(), scale * query_scale)


def _nodes(match: _Match) -> list[onnx.NodeProto]:
    """The nodes that take the place of the one that joins the heads."""
    nodes, inputs = [], []
    for what, names in match.parts.items():
        if len(names) > 1:
            name = f"{match.softmax.output[0]}/{what}"
            nodes.append(onnx.helper.make_node("Concat", names, [name], name=name, axis=1))
            names = [name]
        inputs += names
    nodes.append(
        onnx.helper.make_node(
            "MultiHeadAttention", inputs, [match.joined.output[0]], name=f"{match.softmax.name}/fused", domain=DOMAIN,
            num_heads=match.heads, scale=match.scale,
        )
    )  # fmt: skip
    return nodes


def _unscaled(known: _Graph, value: str) -> tuple[str, float]:
    """A value before its multiplication by a number, and the number; the value itself and 1 without one."""
    node = known.made(value, "Mul")
    if node is not None:
        for name, other in (tuple(node.input), tuple(node.input)[::-1]):
            if (number := known.number(other)) is not None:
                return name, number
    return value, 1.0


def _parts(known: _Graph, value: str) -> list[tuple[str, int]]:
    """The tokens that are joined along S to a value (B, N, S, D), with the heads of each; empty for another value."""
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

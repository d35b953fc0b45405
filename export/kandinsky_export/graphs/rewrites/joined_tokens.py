"""Tokens that are split into heads and then joined → tokens that are joined and then split into heads.

The UNet's attention puts keys and values of the image before those of the feature map. Joined before the split, there
is one Reshape and one Transpose for both, which TensorRT's builder makes one kernel with the bias of a merged product
(`merged_projections`). No number changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.dead_nodes import remove_dead_nodes
from kandinsky_export.graphs.rewrites.nodes import name_of
from kandinsky_export.graphs.rewrites.values import constants_of, replace_nodes
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

_TO_HEADS = [0, 2, 1, 3]  # (B, S, N, D) -> (B, N, S, D)
_TOKENS, _JOINED_TOKENS = 1, (2, -2)


@dataclass(frozen=True)
class _Match:
    """Concat along S of values (B, N, S, D): the Concat, the tokens (B, S, N * D) of each part, and [0, 0, N, D]."""

    join: onnx.NodeProto
    tokens: list[str]
    heads: str


def join_tokens_before_heads(model: onnx.ModelProto) -> Outcome:
    """Turn each Concat of Transpose(Reshape(tokens)) into Transpose(Reshape(Concat(tokens))).

    Every part must be split into the same heads. Only a Concat that reads nothing but Transposes is a candidate.
    """
    graph, outcome = model.graph, Outcome()
    made_by = {name: node for node in graph.node for name in node.output}
    constants = constants_of(graph)
    instead: dict[int, list[onnx.NodeProto]] = {}
    for node in graph.node:
        transposes = [made_by.get(name) for name in node.input]
        if node.op_type == "Concat" and all(item is not None and item.op_type == "Transpose" for item in transposes):
            try:
                match = _check(node, made_by, constants)
            except Refused as refusal:
                outcome.refuse(name_of(node), refusal)
            else:
                instead[id(node)] = _nodes(match)
    if instead:
        replace_nodes(graph, instead)
        remove_dead_nodes(model)
    outcome.rewritten = len(instead)
    return outcome


def _check(
    join: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> _Match:
    axis = onnx.helper.get_node_attr_value(join, "axis")
    require(axis in _JOINED_TOKENS, f"it joins along the axis {axis}; expected 2")
    tokens, shapes, names = [], [], []
    for name in join.input:
        transpose = made_by[name]
        perm = list(onnx.helper.get_node_attr_value(transpose, "perm"))
        require(perm == _TO_HEADS, f"{name} is transposed by {perm}; expected {_TO_HEADS}")
        split = made_by.get(transpose.input[0])
        if split is None or split.op_type != "Reshape" or split.input[1] not in constants:
            raise Refused(f"{name} is not split into heads by a Reshape to a constant shape")
        shapes.append(numpy_helper.to_array(constants[split.input[1]]).tolist())
        tokens.append(split.input[0])
        names.append(split.input[1])
    heads = shapes[0]
    is_split = len(heads) == 4 and heads[:2] == [0, 0] and min(heads[2:]) > 0
    require(is_split, f"its parts are reshaped to {heads}; expected [0, 0, heads, width]")
    require(all(shape == heads for shape in shapes), f"its parts are reshaped to {shapes}; expected one shape")
    return _Match(join, tokens, names[0])


def _nodes(match: _Match) -> list[onnx.NodeProto]:
    made, node = match.join.output[0], match.join
    rows, heads = f"{made}/tokens", f"{made}/heads"
    return [
        onnx.helper.make_node("Concat", match.tokens, [rows], name=node.name, axis=_TOKENS),
        onnx.helper.make_node("Reshape", [rows, match.heads], [heads], name=f"{node.name}/heads"),
        onnx.helper.make_node("Transpose", [heads], [made], name=f"{node.name}/transposed", perm=_TO_HEADS),
    ]

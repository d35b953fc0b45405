"""An `If` whose branches return the same values → those values.

ppdiffusers asks for contiguous memory in batches of 64 and more, which the trace keeps as a branch on the batch size
with both sides alike.
"""

from __future__ import annotations

import onnx

from kandinsky_export.graphs.rewrites.nodes import name_of, require_inner
from kandinsky_export.graphs.rewrites.values import drop_nodes, read_instead, subgraphs
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require


def inline_equal_branches(model: onnx.ModelProto) -> Outcome:
    """Replace each `If` whose two branches only pass on the same values of the graph around them.

    One that makes a graph output stays: the output keeps its producer.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    outcome, dropped = Outcome(), []
    for node in graph.node:
        read_instead([node], source)
        if node.op_type != "If":
            continue
        try:
            passed_on = _check(node, outputs)
        except Refused as refusal:
            outcome.refuse(name_of(node), refusal)
        else:
            source.update(zip(node.output, passed_on, strict=True))
            dropped.append(node)
    drop_nodes(graph, dropped)
    outcome.rewritten = len(dropped)
    return outcome


def _check(node: onnx.NodeProto, outputs: set[str]) -> list[str]:
    """The values of the graph around it that an `If` passes on."""
    require_inner(node, outputs)
    then, other = map(_passed_on, subgraphs(node))
    require(then == other, f"its branches return different values: {', '.join(then)} and {', '.join(other)}")
    return then


def _passed_on(branch: onnx.GraphProto) -> list[str]:
    """The outer values that a branch returns."""
    require(not branch.initializer and not branch.sparse_initializer, f"its branch {branch.name} has values of its own")
    computing = [node.op_type for node in branch.node if node.op_type != "Identity"]
    require(not computing, f"its branch {branch.name} computes {', '.join(computing)}")
    source: dict[str, str] = {}
    for node in branch.node:
        source[node.output[0]] = source.get(node.input[0], node.input[0])
    return [source.get(value.name, value.name) for value in branch.output]

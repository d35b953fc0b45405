"""An `If` whose branches return the same values → those values.

ppdiffusers asks for contiguous memory in batches of 64 and more, which the trace keeps as a branch on the batch size
with both sides alike.
"""

from __future__ import annotations

import onnx

from kandinsky_export.graphs.rewrites.values import drop_nodes, read_instead, subgraphs


def inline_equal_branches(model: onnx.ModelProto) -> int:
    """Replace each `If` of which both branches only pass the same outer values on.

    One that makes a graph output stays: the output keeps its producer.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    dropped = []
    for node in graph.node:
        read_instead([node], source)
        if node.op_type != "If" or not outputs.isdisjoint(node.output):
            continue
        then, other = map(_passed_on, subgraphs(node))
        if then is not None and then == other:
            source.update(zip(node.output, then, strict=True))
            dropped.append(node)
    drop_nodes(graph, dropped)
    return len(dropped)


def _passed_on(branch: onnx.GraphProto) -> list[str] | None:
    """The outer values that a branch returns, or None where it computes something or has values of its own."""
    if branch.initializer or branch.sparse_initializer or any(node.op_type != "Identity" for node in branch.node):
        return None
    source: dict[str, str] = {}
    for node in branch.node:
        source[node.output[0]] = source.get(node.input[0], node.input[0])
    return [source.get(value.name, value.name) for value in branch.output]

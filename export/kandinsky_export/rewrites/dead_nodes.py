"""Nodes whose results nothing reads → nothing."""

from __future__ import annotations

import onnx


def remove_dead_nodes(model: onnx.ModelProto) -> int:
    """Drop every node that no graph output depends on; the nodes are in topological order, as ONNX demands."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    dropped = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            dropped.append(node)
            continue
        needed.update(node.input)
        for attribute in node.attribute:
            needed.update(name for inner in attribute.g.node for name in inner.input)
            needed.update(value.name for value in attribute.g.output)
    for node in dropped:
        graph.node.remove(node)
    return len(dropped)

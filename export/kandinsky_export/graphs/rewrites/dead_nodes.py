"""Nodes whose results nothing reads → nothing."""

from __future__ import annotations

import onnx

from kandinsky_export.graphs.rewrites.values import drop_nodes, values_read
from kandinsky_runtime.engines.rewrites import Outcome


def remove_dead_nodes(model: onnx.ModelProto) -> Outcome:
    """Drop every node that no graph output depends on; the nodes are in topological order, as ONNX demands."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    dropped = []
    for node in reversed(graph.node):
        if needed.isdisjoint(node.output):
            dropped.append(node)
        else:
            needed |= values_read([node])
    drop_nodes(graph, dropped)
    return Outcome(len(dropped))

"""Constant nodes → initializers, without those that nothing reads."""

from __future__ import annotations

import onnx

from kandinsky_export.graphs.rewrites.nodes import name_of, require_inner
from kandinsky_export.graphs.rewrites.values import drop_nodes, values_read
from kandinsky_runtime.engines.rewrites import Outcome, Refused


def constants_to_initializers(model: onnx.ModelProto) -> Outcome:
    """Move the tensors of `Constant` nodes to the graph's initializers and drop what no node reads.

    A constant that is a graph output stays a node: the output keeps its producer. So do constants inside subgraphs.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    outcome, moved = Outcome(), []
    for node in graph.node:
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            continue
        try:
            require_inner(node, outputs)
        except Refused as refusal:
            outcome.refuse(name_of(node), refusal)
        else:
            moved.append(node)
    for node in moved:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
    drop_nodes(graph, moved)
    read = values_read(graph.node) | outputs
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    outcome.rewritten = len(moved)
    return outcome

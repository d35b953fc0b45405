"""An `Identity` that only renames a value to a graph output → the value itself, under the output's name."""

from __future__ import annotations

import onnx

from kandinsky_export.graphs.rewrites.nodes import name_of
from kandinsky_export.graphs.rewrites.values import drop_nodes, read_instead
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require


def name_outputs_at_source(model: onnx.ModelProto) -> Outcome:
    """Let the node that computes a graph output have the output's name, and drop the `Identity` behind it.

    An `Identity` stays if its value is an input, a weight or another output of the graph: those keep their names.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    computed = {name for node in graph.node for name in node.output} - outputs
    source: dict[str, str] = {}
    outcome, dropped = Outcome(), []
    for node in graph.node:
        if node.op_type != "Identity" or node.output[0] not in outputs:
            continue
        value = node.input[0]
        try:
            require(
                value in computed, f"{value} is an input, a weight or another output of the graph and keeps its name"
            )
            require(value not in source, f"{value} has the name of the output {source.get(value)} already")
        except Refused as refusal:
            outcome.refuse(name_of(node), refusal)
        else:
            source[value] = node.output[0]
            dropped.append(node)
    drop_nodes(graph, dropped)
    read_instead(graph.node, source)
    for node in graph.node:
        node.output[:] = [source.get(name, name) for name in node.output]
    outcome.rewritten = len(dropped)
    return outcome

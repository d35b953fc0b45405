"""An `If` whose branches return the same values → those values.

ppdiffusers asks for contiguous memory in batches of 64 and more, which the trace keeps as a branch on the batch size
with both sides alike.
"""

from __future__ import annotations

import onnx


def inline_equal_branches(model: onnx.ModelProto) -> int:
    """Replace each `If` of which both branches only pass the same outer values on."""
    graph = model.graph
    source: dict[str, str] = {}
    dropped = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source.get(name, name)
        if node.op_type != "If":
            continue
        then, other = (_passed_on(attribute.g) for attribute in node.attribute)
        if then is not None and then == other:
            source.update((out, source.get(name, name)) for out, name in zip(node.output, then, strict=True))
            dropped.append(node)
    for node in dropped:
        graph.node.remove(node)
    return len(dropped)


def _passed_on(branch: onnx.GraphProto) -> list[str] | None:
    """The outer values that a branch returns, or None where it computes something."""
    if any(node.op_type != "Identity" for node in branch.node):
        return None
    source = {node.output[0]: node.input[0] for node in branch.node}
    return [source.get(value.name, value.name) for value in branch.output]

"""Constant nodes → initializers, and none that nothing reads."""

from __future__ import annotations

import onnx


def constants_to_initializers(model: onnx.ModelProto) -> int:
    """Move the tensors of `Constant` nodes to the graph's initializers and drop what no node reads."""
    graph = model.graph
    moved = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in moved:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
    return len(moved)

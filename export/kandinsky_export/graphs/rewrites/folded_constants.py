"""Nodes that compute with constants alone → their results.

The converter leaves such chains: the frequencies of the timestep's embedding, counted in float64, and the parts of
shapes that are known. TensorRT has no float64.
"""

from __future__ import annotations

import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from kandinsky_export.graphs.rewrites.values import drop_nodes, subgraphs

_MAX_ELEMENTS = 16384
# Their results differ from run to run, or they only move what is a constant already.
_NOT_FOLDED = frozenset({"Constant", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})


def fold_constants(model: onnx.ModelProto) -> int:
    """Compute each node whose inputs are constants of the graph, and store its results as constants.

    Weights in another file are not read. A node that makes a graph output stays, and so does one with a graph inside
    it or with a result of more than 16384 elements.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    constants = {
        tensor.name: tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL
    }
    dropped = []
    for node in graph.node:
        read = [name for name in node.input if name]
        if not read or not constants.keys() >= set(read) or not outputs.isdisjoint(node.output):
            continue
        if node.op_type in _NOT_FOLDED or subgraphs(node):
            continue
        feeds = {name: numpy_helper.to_array(constants[name]) for name in read}
        results = ReferenceEvaluator(node, opsets={item.domain: item.version for item in model.opset_import}).run(
            None, feeds
        )
        if any(result.size > _MAX_ELEMENTS for result in results):
            continue
        for name, result in zip(node.output, results, strict=True):
            constants[name] = numpy_helper.from_array(result, name)
            graph.initializer.append(constants[name])
        dropped.append(node)
    drop_nodes(graph, dropped)
    return len(dropped)

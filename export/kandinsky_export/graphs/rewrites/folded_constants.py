"""Nodes that compute with constants alone → their results.

The converter leaves such chains: the frequencies of the timestep's embedding, counted in float64, and the parts of
shapes that are known. TensorRT has no float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from kandinsky_export.graphs.rewrites.nodes import name_of, require_inner
from kandinsky_export.graphs.rewrites.values import constants_of, drop_nodes, subgraphs
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require

_MAX_ELEMENTS = 16384
_RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike"})


def fold_constants(model: onnx.ModelProto) -> Outcome:
    """Compute each node whose inputs are constants of the graph, and store its results as constants.

    Weights in another file are not read. A node that makes a graph output stays, and so does one with a graph inside
    it or with a result of more than 16384 elements.
    """
    graph = model.graph
    outputs = {value.name for value in graph.output}
    constants = constants_of(graph)
    stored = {tensor.name for tensor in graph.initializer} - constants.keys()
    outcome, dropped = Outcome(), []
    for node in graph.node:
        read = {name for name in node.input if name}
        if not read or not read <= constants.keys() | stored:
            continue
        try:
            results = _check(node, read & stored, outputs, constants, model)
        except Refused as refusal:
            outcome.refuse(name_of(node), refusal)
            continue
        for name, result in zip(node.output, results, strict=True):
            constants[name] = numpy_helper.from_array(result, name)
            graph.initializer.append(constants[name])
        dropped.append(node)
    drop_nodes(graph, dropped)
    outcome.rewritten = len(dropped)
    return outcome


def _check(
    node: onnx.NodeProto,
    stored: set[str],
    outputs: set[str],
    constants: Mapping[str, onnx.TensorProto],
    model: onnx.ModelProto,
) -> Sequence[npt.NDArray[Any]]:
    """The results of a node that reads constants alone."""
    require(not stored, f"it reads weights in another file: {', '.join(sorted(stored))}")
    require_inner(node, outputs)
    require(node.op_type not in _RANDOM, f"{node.op_type} has another result in every run")
    require(not subgraphs(node), f"{node.op_type} has a graph inside it")
    feeds = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
    opsets = {item.domain: item.version for item in model.opset_import}
    results: Sequence[npt.NDArray[Any]] = ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
    largest = max(result.size for result in results)
    require(largest <= _MAX_ELEMENTS, f"its result has {largest} elements; at most {_MAX_ELEMENTS} are stored")
    return results

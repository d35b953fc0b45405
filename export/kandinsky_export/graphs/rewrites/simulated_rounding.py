"""A graph with fp16 or bf16 in its types → a float32 graph that rounds every value as the former would.

No CPU engine computes as a GPU does: ONNX Runtime puts casts around what it has no kernel for and drops those that
meet, OpenVINO computes the whole graph in float32. This graph rounds after each node, with sums in float32 as matrix
units have them; kernels that engines fuse round less often. It shows what the types cost, on any engine that runs
float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.element_types import ELEMENT_TYPES, FLOAT, cast_node, value_types

# Digits of the significand, the hidden one included.
_DIGITS = {onnx.TensorProto.FLOAT16: 11, onnx.TensorProto.BFLOAT16: 8}
_FLOAT32_DIGITS = 24


def simulate_rounding(model: onnx.ModelProto) -> int:
    """Let the graph compute in float32, and round every value that had another floating-point type to that type.

    A value is split as Dekker and Veltkamp do it: with c = (2^s + 1) x, the difference c - (c - x) is x rounded to
    24 - s digits (Dekker, A floating-point technique for extending the available precision, 1971). Values below the
    smallest normal number keep more digits than fp16 has for them, and none overflows. Run it without the engine's
    graph optimisations, which may take the differences for no-ops.

    Args:
        model: a graph made by `lower_element_types`, changed in place; its weights stay stored as they are.

    Returns:
        How many values are rounded.
    """
    graph, low_types = model.graph, set(ELEMENT_TYPES.values())
    types = value_types(model)
    nodes = []
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in low_types}
    rounded = 0
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            if (tensor := stored.pop(name, None)) is not None:  # widened where it is first read, not all at once
                tensor.name = f"{name}/stored"
                nodes.append(cast_node(tensor.name, name, FLOAT))
        targets = [attribute for attribute in node.attribute if node.op_type == "Cast" and attribute.name == "to"]
        for attribute in targets:
            attribute.i = FLOAT if attribute.i in low_types else attribute.i
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name and types[name] in low_types:
                node.output[i] = f"{name}/exact"
                nodes += _rounding(node.output[i], name, _DIGITS[types[name]])
                rounded += 1
    for digits in sorted(set(_DIGITS.values())):
        graph.initializer.append(
            numpy_helper.from_array(np.float32(2 ** (_FLOAT32_DIGITS - digits) + 1), _splitter(digits))
        )
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    return rounded


def _rounding(source: str, target: str, digits: int) -> Iterator[onnx.NodeProto]:
    steps = (
        ("Mul", (source, _splitter(digits)), f"{target}/scaled"),
        ("Sub", (f"{target}/scaled", source), f"{target}/rest"),
        ("Sub", (f"{target}/scaled", f"{target}/rest"), target),
    )
    for kind, inputs, output in steps:
        yield onnx.helper.make_node(kind, inputs, [output], name=f"{output}/{kind}")


def _splitter(digits: int) -> str:
    return f"splitter/{digits}"

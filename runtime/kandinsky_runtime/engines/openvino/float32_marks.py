"""Nodes that OpenVINO computes in float32 while the rest of a graph runs in bf16.

OpenVINO's CPU plugin leaves a node's precision as it is where the node's runtime information says that conversion from
any type to any other is disabled.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from kandinsky_runtime.engines.openvino.attributes import give_attribute


def in_float32(node: Any) -> Any:
    """Mark an `openvino` node to be computed, read and written in float32, and return it.

    Whether OpenVINO heeds it is what `marks_are_heeded` tells. Nodes that OpenVINO puts in the place of this one, such
    as a product and a sum for a difference, are not marked.
    """
    return give_attribute(node, "DisablePrecisionConversion", "dynamic:dynamic")


@cache
def marks_are_heeded() -> bool:
    """Whether this OpenVINO computes a marked node in float32: asked of a small graph, once for a process."""
    import openvino
    from openvino import opset13 as ops

    source = ops.parameter([32, 32], np.float32)
    mean = ops.reduce_mean(ops.matmul(source, source, False, False), ops.constant(np.array([1])), True)
    try:
        marked = in_float32(ops.multiply(mean, mean))
    except (AttributeError, KeyError, RuntimeError):  # an OpenVINO without the call or without the attribute
        return False
    # A product follows, for what only leads to an output stays in float32 without a mark.
    model = openvino.Model([ops.result(ops.matmul(source, marked, False, False))], [source], "probe")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if marked.get_friendly_name() in str(info["originalLayersNames"].value).split(","):
            return str(info["outputPrecisions"].value) == "f32"
    return False

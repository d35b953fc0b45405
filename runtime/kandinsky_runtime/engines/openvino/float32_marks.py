"""Nodes that OpenVINO computes in float32 while the rest of a graph runs in bf16.

OpenVINO's CPU plugin does not change a node's precision if the node's runtime information disables the conversion from
any type to any other.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from kandinsky_runtime.engines.openvino.attributes import give_attribute


def in_float32(node: Any) -> Any:
    """Mark an `openvino` node to be computed, read and written in float32, and return it.

    `marks_are_heeded` returns whether OpenVINO respects the mark. If OpenVINO replaces the node by others, such as a
    difference by a product and a sum, the others are not marked.
    """
    return give_attribute(node, "DisablePrecisionConversion", "dynamic:dynamic")


@cache
def marks_are_heeded() -> bool:
    """Whether this OpenVINO computes marked nodes in float32, from a small graph that is compiled once per process."""
    import openvino
    from openvino import opset13 as ops

    source = ops.parameter([32, 32], np.float32)
    mean = ops.reduce_mean(ops.matmul(source, source, False, False), ops.constant(np.array([1])), True)
    try:
        marked = in_float32(ops.multiply(mean, mean))
    except (AttributeError, KeyError, RuntimeError):  # this OpenVINO lacks the call or the attribute
        return False
    # A product follows: a node that leads only to an output stays in float32 without a mark.
    model = openvino.Model([ops.result(ops.matmul(source, marked, False, False))], [source], "probe")
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if marked.get_friendly_name() in str(info["originalLayersNames"].value).split(","):
            return str(info["outputPrecisions"].value) == "f32"
    return False

"""Nodes that OpenVINO computes in float32 while the rest of a graph runs in bf16.

OpenVINO's CPU plugin leaves a node's precision as it is where the node's runtime information says that conversion from
any type to any other is disabled. Python has no function that says so; its intermediate representation has an
attribute, which is read here from the smallest model there is and handed on.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

_KEY = "DisablePrecisionConversion_0"
_REPRESENTATION = """<net name="mark" version="11"><layers>
<layer id="0" name="in" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="marked" type="Abs" version="opset1">
<rt_info><attribute name="DisablePrecisionConversion" version="0" value="dynamic:dynamic"/></rt_info>
<input><port id="0" precision="FP32"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="out" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


def in_float32(node: Any) -> Any:
    """Mark an `openvino` node to be computed, read and written in float32, and return it.

    Whether OpenVINO heeds it is what `marks_are_heeded` tells. Nodes that OpenVINO puts in the place of this one, such
    as a product and a sum for a difference, are not marked.
    """
    node.set_rt_info(_mark(), _KEY)
    return node


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


@cache
def _mark() -> Any:
    import openvino

    model = openvino.Core().read_model(_REPRESENTATION, openvino.Tensor(np.zeros(0, np.uint8)))
    (node,) = (node for node in model.get_ops() if node.get_type_name() == "Abs")
    return node.get_rt_info()[_KEY]

"""Attributes of a node's runtime information in OpenVINO for which Python has no function.

OpenVINO's intermediate representation has them: they are read from a minimal model and given to other nodes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

_REPRESENTATION = """<net name="marked" version="11"><layers>
<layer id="0" name="in" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="marked" type="Abs" version="opset1">
<rt_info><attribute name="{name}" version="0" value="{value}"/></rt_info>
<input><port id="0" precision="FP32"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="out" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer></layers>
<edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


def give_attribute(node: Any, name: str, value: str = "") -> Any:
    """Give an `openvino` node a runtime attribute, of version 0, and return the node.

    Raises:
        KeyError: this version of OpenVINO does not have the attribute.
    """
    node.set_rt_info(_attribute(name, value), f"{name}_0")
    return node


@cache
def _attribute(name: str, value: str) -> Any:
    import openvino

    text = _REPRESENTATION.format(name=name, value=value)
    model = openvino.Core().read_model(text, openvino.Tensor(np.zeros(0, np.uint8)))
    (node,) = (node for node in model.get_ops() if node.get_type_name() == "Abs")
    return node.get_rt_info()[f"{name}_0"]

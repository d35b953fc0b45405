"""Questions about the nodes of an `openvino.Model`, for the rewrites."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_NOT_FOLDED = "DisableConstantFolding_0"


def constant(value: Any) -> npt.NDArray[Any] | None:
    """The values of an output, if it is a constant; else None."""
    node = value.get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None


def stored_weights(node: Any) -> Any | None:
    """The Constant with the weights of a convolution or a matrix product, also behind a Convert from fewer bits.

    None if the weights are not a Constant.
    """
    source = node.input_value(1).get_node()
    if _is_widening(source):
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


def fold_constants(model: Any) -> None:
    """Compute what depends on constants only, in place. Stored weights are not widened, because that fills memory."""
    from openvino import passes

    widening = [node for node in model.get_ops() if _is_widening(node)]
    for node in widening:
        node.set_rt_info("", _NOT_FOLDED)
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())
    folding.run_passes(model)
    for node in widening:
        del node.get_rt_info()[_NOT_FOLDED]


def only_reader(value: Any) -> Any:
    """The node that reads an output; None if there are several or none."""
    readers = list(value.get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def with_constant(value: Any, kind: str) -> tuple[Any, npt.NDArray[Any]]:
    """The output of the only node that reads `value`, and its constant, if the node is of this kind and has a constant.

    (None, an empty array) if there is no such node.
    """
    reader = only_reader(value)
    if reader is not None and reader.get_type_name() == kind:
        for other in reader.input_values():
            values = constant(other)
            if values is not None:
                return reader.output(0), values
    return None, np.empty(0)


def _is_widening(node: Any) -> bool:
    """Whether a node converts a constant of fewer bits to float32."""
    return (
        node.get_type_name() == "Convert"
        and node.input_value(0).get_node().get_type_name() == "Constant"
        and (node.get_input_element_type(0).to_string(), node.get_output_element_type(0).to_string())
        in (("bf16", "f32"), ("f16", "f32"))
    )

"""What the rewrites of an `openvino.Model` ask of its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def constant(value: Any) -> npt.NDArray[Any] | None:
    """The values of an output, if it is a constant's."""
    node = value.get_node()
    return np.asarray(node.data) if node.get_type_name() == "Constant" else None


def only_reader(value: Any) -> Any:
    """The one node that reads an output, or None if there are several or none."""
    readers = list(value.get_target_inputs())
    return readers[0].get_node() if len(readers) == 1 else None


def with_constant(value: Any, kind: str) -> tuple[Any, npt.NDArray[Any]]:
    """The output of the one node that reads an output, if it is of this kind with a constant, and the constant.

    (None, an empty array) if there is no such node.
    """
    reader = only_reader(value)
    if reader is not None and reader.get_type_name() == kind:
        for other in reader.input_values():
            values = constant(other)
            if values is not None:
                return reader.output(0), values
    return None, np.empty(0)

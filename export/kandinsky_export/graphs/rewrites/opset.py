"""A graph of one opset → the same graph of a later one, whose schemas allow more types."""

from __future__ import annotations

import onnx
from onnx import version_converter

from kandinsky_export.errors import ExportError


def raise_opset(model: onnx.ModelProto, version: int) -> None:
    """Convert the nodes to a later opset of ONNX, in place; weights in another file stay where they are.

    Raises:
        ExportError: ONNX has no conversion for a node.
    """
    try:
        converted = version_converter.convert_version(model, version)
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"the graph cannot be converted to opset {version}: {error}") from error
    known = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(tensor for tensor in converted.graph.initializer if tensor.name not in known)
    del model.graph.node[:]
    model.graph.node.extend(converted.graph.node)
    del model.opset_import[:]
    model.opset_import.extend(converted.opset_import)
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(model.opset_import))

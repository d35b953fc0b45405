"""What rewrites ask of a single node of an ONNX graph."""

from __future__ import annotations

import onnx

from kandinsky_runtime.engines.rewrites import Refused


def name_of(node: onnx.NodeProto) -> str:
    """The node's name, or that of its first output if it has none."""
    return str(node.name or node.output[0])


def require_inner(node: onnx.NodeProto, outputs: set[str]) -> None:
    """Raise Refused if a node makes an output of the graph, which must keep its name and its producer."""
    if made := outputs.intersection(node.output):
        raise Refused(f"it makes `{min(made)}`, an output of the graph")

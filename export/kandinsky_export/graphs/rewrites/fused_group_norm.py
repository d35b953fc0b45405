"""Reshape → InstanceNormalization → Reshape → Mul → Add → ONNX Runtime's GroupNorm, with SiLU if it follows.

A norm that `summed_norms` wrote as sums is taken, too.

The operator of its CUDA provider reads the map channels last and sums in float32; the transposes before and after it
meet those around channels-last convolutions, and go.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupNorm
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from kandinsky_export.graphs.rewrites.fused_attention import DOMAIN
from kandinsky_export.graphs.rewrites.nodes import name_of
from kandinsky_export.graphs.rewrites.summed_norms import norm_of_sums
from kandinsky_export.graphs.rewrites.values import constants_of, replace_nodes, values_read
from kandinsky_runtime.engines.rewrites import Outcome, Refused, require


@dataclass(frozen=True)
class _Match:
    """A group norm: input, last node, weights, number of groups, epsilon, and whether SiLU follows."""

    source: str
    last: onnx.NodeProto
    scale: str
    bias: str
    groups: int
    epsilon: float
    silu: bool


def fuse_group_norm(model: onnx.ModelProto) -> Outcome:
    """Replace each group norm of a feature map (B, C, h, w); casts around its statistics go with it.

    Another norm is left as it is. Dead nodes stay behind.
    """
    finder, outcome = _Finder(model.graph), Outcome()
    fused: dict[int, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        norm = finder.norm(node)
        if norm is None:
            continue
        try:
            match = finder.check(node, *norm)
        except Refused as refusal:
            outcome.refuse(name_of(node), refusal)
        else:
            fused[id(match.last)] = _nodes(match)
    replace_nodes(model.graph, fused)
    outcome.rewritten = len(fused)
    return outcome


def _nodes(match: _Match) -> list[onnx.NodeProto]:
    made = match.last.output[0]
    before, after = f"{made}/channels_last", f"{made}/normalised"
    norm = onnx.helper.make_node(
        "GroupNorm", [before, match.scale, match.bias], [after], name=f"{made}/group_norm", domain=DOMAIN,
        groups=match.groups, epsilon=match.epsilon, activation=int(match.silu), channels_last=1,
    )  # fmt: skip
    return [
        onnx.helper.make_node("Transpose", [match.source], [before], name=before, perm=[0, 2, 3, 1]),
        norm,
        onnx.helper.make_node("Transpose", [after], [made], name=f"{made}/channels_first", perm=[0, 3, 1, 2]),
    ]


class _Finder:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._made_by = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in values_read([node]):
                self._readers.setdefault(name, []).append(node)
        self._results = {value.name for value in graph.output}
        self._constants = constants_of(graph)
        self._weights = {item.name for item in graph.initializer if len(item.dims) == 1}

    def norm(self, node: onnx.NodeProto) -> tuple[str, float] | None:
        """What an InstanceNormalization, or the last node of sums in its place, normalises, and epsilon."""
        if node.op_type == "InstanceNormalization":
            return node.input[0], onnx.helper.get_node_attr_value(node, "epsilon")
        return norm_of_sums(node, self._made_by, self._constants)

    def check(self, norm: onnx.NodeProto, source: str, epsilon: float) -> _Match:
        """The group norm around an InstanceNormalization, or around sums, whose scale is 1 and whose bias is 0."""
        split = self._before(source, "Reshape")
        if split is None:
            raise Refused("its input is not split into groups by a Reshape")
        groups = self._array(split.input[1])
        if groups is None or len(groups) != 3 or groups[0] != 0 or groups[2] != -1:
            raise Refused(f"its input is reshaped to {groups}; expected [0, groups, -1]")
        count = int(groups[1])
        if norm.op_type == "InstanceNormalization":
            weights = self._array(norm.input[1]), self._array(norm.input[2])
            require(weights == ([1.0] * count, [0.0] * count), "it has a scale or a bias of its own; expected 1 and 0")
        joined = self._after(norm, "Reshape")
        if joined is None or not self._is_shape_of(joined.input[1], split):
            raise Refused("its output is not reshaped to the shape of its input, by one Reshape alone")
        scaled = self._after(joined, "Mul")
        shifted = None if scaled is None else self._after(scaled, "Add")
        if scaled is None or shifted is None:
            raise Refused("its output is not scaled by one Mul and shifted by one Add alone")
        scale, bias = self._weight(scaled), self._weight(shifted)
        if scale is None or bias is None:
            raise Refused(f"its {'scale' if scale is None else 'bias'} is not a weight (C) read as (C, 1, 1)")
        silu = self._silu(shifted)
        return _Match(
            split.input[0],
            silu or shifted,
            scale,
            bias,
            count,
            epsilon,
            silu is not None,
        )

    def _before(self, value: str, kind: str) -> onnx.NodeProto | None:
        """The node of this kind that makes a value, or what is cast to it."""
        node = self._made_by.get(value)
        if node is not None and node.op_type == "Cast":
            node = self._made_by.get(node.input[0])
        return node if node is not None and node.op_type == kind else None

    def _after(self, node: onnx.NodeProto, kind: str) -> onnx.NodeProto | None:
        """The node of this kind that alone reads a node's output, or what that is cast to."""
        readers = self._readers.get(node.output[0], [])
        if node.output[0] in self._results or len(readers) != 1:
            return None
        if readers[0].op_type == "Cast" and kind != "Cast":
            return self._after(readers[0], kind)
        return readers[0] if readers[0].op_type == kind else None

    def _silu(self, norm: onnx.NodeProto) -> onnx.NodeProto | None:
        """The product of a norm's output with its sigmoid, if nothing else reads the output."""
        value = norm.output[0]
        readers = self._readers.get(value, [])
        sigmoid = next((node for node in readers if node.op_type == "Sigmoid"), None)
        if sigmoid is None or len(readers) != 2 or value in self._results:
            return None
        product = self._after(sigmoid, "Mul")
        return product if product is not None and set(product.input) == {value, sigmoid.output[0]} else None

    def _is_shape_of(self, value: str, split: onnx.NodeProto) -> bool:
        shape = self._made_by.get(value)
        return shape is not None and shape.op_type == "Shape" and shape.input[0] == split.input[0]

    def _weight(self, node: onnx.NodeProto) -> str | None:
        """The weight (C) that a node reads as (C, 1, 1)."""
        for name in node.input:
            made = self._made_by.get(name)
            if made is not None and made.op_type == "Unsqueeze" and self._array(made.input[1]) in ([1, 2], [-2, -1]):
                return made.input[0] if made.input[0] in self._weights else None
        return None

    def _array(self, value: str) -> list[float] | None:
        tensor = self._constants.get(value)
        if tensor is None:
            return None
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.BFLOAT16:  # ONNX 1.17 reads it wrongly: the upper halves of float32
            values = (np.frombuffer(tensor.raw_data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        found: list[float] = values.reshape(-1).tolist()
        return found

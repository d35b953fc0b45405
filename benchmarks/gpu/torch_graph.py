"""An ONNX graph run node by node in PyTorch: the second opinion if diffusers is not installed.

Knows the operators that the exported graphs have, and refuses others. Shapes and other whole numbers stay in numpy on
the host; floats are tensors on the device. Specifications: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import numpy_helper

Value = Any  # torch.Tensor of floats, or np.ndarray of whole numbers
_FLOATS = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.BFLOAT16: torch.bfloat16,
}


class TorchGraph(torch.nn.Module):
    """One graph; `forward` takes and returns tensors in the order of the graph's inputs and outputs."""

    def __init__(self, file: Path, device: str, dtype: torch.dtype | None = None) -> None:
        """Load graph and weights.

        Args:
            file: the ONNX file; its external weights are next to it.
            device: PyTorch's device.
            dtype: the type of all floats; None keeps the types in the graph.

        Raises:
            NotImplementedError: the graph has an operator that is not known here; lists them all.
        """
        super().__init__()
        model = onnx.load(file)
        if unknown := sorted({node.op_type for node in model.graph.node} - OPERATORS.keys()):
            raise NotImplementedError(f"{file.name} has {', '.join(unknown)}, which torch_graph.py does not know")
        self.dtype, self.device = dtype, device
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.constants = {tensor.name: self._constant(tensor) for tensor in model.graph.initializer}
        self.nodes = [
            (
                OPERATORS[node.op_type],
                list(node.input),
                list(node.output),
                {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute},
            )
            for node in model.graph.node
        ]
        self._last_use = {name: number for number, node in enumerate(self.nodes) for name in node[1]}

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run every node; a value is freed after its last use."""
        known: dict[str, Value] = dict(zip(self.inputs, inputs, strict=True))
        for number, (operator, names, results, attributes) in enumerate(self.nodes):
            values = [None if not name else known[name] if name in known else self.constants[name] for name in names]
            made = operator(self, attributes, *values)
            known.update(zip(results, made if isinstance(made, (list, tuple)) else [made], strict=True))
            for name in names:
                if name in known and self._last_use[name] == number and name not in self.outputs:
                    del known[name]
        return tuple(known[name] for name in self.outputs)

    def floats(self, kind: int) -> torch.dtype | None:
        """The type that a float of the graph has here; None for whole numbers."""
        return None if kind not in _FLOATS else self.dtype or _FLOATS[kind]

    def _constant(self, tensor: onnx.TensorProto) -> Value:
        if (dtype := self.floats(tensor.data_type)) is None:
            return numpy_helper.to_array(tensor)
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            array = torch.frombuffer(bytearray(tensor.raw_data), dtype=torch.bfloat16).reshape(list(tensor.dims))
        else:
            array = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        return array.to(self.device, dtype)


def _ints(value: Value) -> list[int]:
    return [int(item) for item in np.asarray(value).reshape(-1)]


def _on_host(*values: Value) -> bool:
    return all(not isinstance(value, torch.Tensor) for value in values)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    def run(graph: TorchGraph, attributes: Mapping[str, Any], left: Value, right: Value) -> Value:
        if not _on_host(left, right):
            left, right = (item if isinstance(item, torch.Tensor) else torch.from_numpy(item) for item in (left, right))
            right = right.to(left.device)
        return function(left, right)

    return run


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Value]:
    return lambda graph, attributes, x: function(x)


def _conv(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, weight: Value, bias: Value = None) -> Value:
    begin, end = attributes["pads"][:2], attributes["pads"][2:]
    if begin != end:
        x, begin = F.pad(x, (begin[1], end[1], begin[0], end[0])), [0, 0]
    return F.conv2d(x, weight, bias, attributes["strides"], begin, attributes["dilations"], attributes["group"])


def _instance_norm(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, scale: Value, bias: Value) -> Value:
    return F.instance_norm(x, weight=scale, bias=bias, eps=attributes["epsilon"])


def _layer_norm(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, scale: Value, bias: Value = None) -> Value:
    shape = x.shape[attributes.get("axis", -1) :]
    return F.layer_norm(x, shape, scale, bias, attributes.get("epsilon", 1e-5))


def _reshape(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, shape: Value) -> Value:
    sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(_ints(shape))]
    return x.reshape(sizes)


def _concat(graph: TorchGraph, attributes: Mapping[str, Any], *values: Value) -> Value:
    join = np.concatenate if _on_host(*values) else torch.cat
    return join(list(values), attributes["axis"])


def _split(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, sizes: Value = None) -> Value:
    axis = attributes.get("axis", 0)
    if sizes is None:
        raise NotImplementedError("Split without sizes")
    lengths = _ints(sizes)
    if _on_host(x):
        return np.split(x, np.cumsum(lengths)[:-1], axis)
    return torch.split(x, lengths, axis)


def _slice(
    graph: TorchGraph,
    attributes: Mapping[str, Any],
    x: Value,
    starts: Value,
    ends: Value,
    axes: Value = None,
    steps: Value = None,
) -> Value:
    index: list[slice] = [slice(None)] * x.ndim
    for number, (start, end) in enumerate(zip(_ints(starts), _ints(ends), strict=True)):
        axis = number if axes is None else _ints(axes)[number]
        step = 1 if steps is None else _ints(steps)[number]
        index[axis] = slice(start, min(end, x.shape[axis]), step)
    return x[tuple(index)]


def _unsqueeze(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, axes: Value) -> Value:
    numbers = _ints(axes)
    rank = x.ndim + len(numbers)
    for axis in sorted(number % rank for number in numbers):
        x = np.expand_dims(x, axis) if _on_host(x) else x.unsqueeze(axis)
    return x


def _squeeze(graph: TorchGraph, attributes: Mapping[str, Any], x: Value, axes: Value = None) -> Value:
    numbers = tuple(_ints(axes)) if axes is not None else tuple(i for i, size in enumerate(x.shape) if size == 1)
    return x.squeeze(numbers)


def _transpose(graph: TorchGraph, attributes: Mapping[str, Any], x: Value) -> Value:
    return x.permute(attributes["perm"])


def _cast(graph: TorchGraph, attributes: Mapping[str, Any], x: Value) -> Value:
    dtype = graph.floats(attributes["to"])
    if dtype is None:
        if not _on_host(x):
            raise NotImplementedError("Cast of floats to whole numbers")
        return x.astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))
    return (torch.from_numpy(np.asarray(x)) if _on_host(x) else x).to(graph.device, dtype)


def _range(graph: TorchGraph, attributes: Mapping[str, Any], start: Value, limit: Value, delta: Value) -> Value:
    if not _on_host(start, limit, delta):
        start, limit, delta = (
            item.item() if isinstance(item, torch.Tensor) else item for item in (start, limit, delta)
        )
        return torch.arange(start, limit, delta, device=graph.device, dtype=graph.dtype or torch.float32)
    return np.arange(start, limit, delta)


def _resize(
    graph: TorchGraph,
    attributes: Mapping[str, Any],
    x: Value,
    roi: Value = None,
    scales: Value = None,
    sizes: Value = None,
) -> Value:
    if attributes.get("mode", b"nearest") != b"nearest":
        raise NotImplementedError(f"Resize in mode {attributes['mode']!r}")
    if sizes is not None:
        return F.interpolate(x, size=_ints(sizes)[2:], mode="nearest")
    factors = scales.tolist()[2:]
    return F.interpolate(
        x, size=[int(size * by) for size, by in zip(x.shape[2:], factors, strict=True)], mode="nearest"
    )


def _pad(
    graph: TorchGraph, attributes: Mapping[str, Any], x: Value, pads: Value, value: Value = None, axes: Value = None
) -> Value:
    amounts, rank = _ints(pads), x.ndim
    if axes is not None or attributes.get("mode", b"constant") != b"constant":
        raise NotImplementedError("Pad of some axes, or in another mode than constant")
    order = [amounts[axis + end * rank] for axis in reversed(range(rank)) for end in (0, 1)]
    return F.pad(x, order, value=0.0 if value is None else float(value))


def _average_pool(graph: TorchGraph, attributes: Mapping[str, Any], x: Value) -> Value:
    if any(attributes.get("pads", [0])) or attributes.get("ceil_mode", 0):
        raise NotImplementedError("AveragePool with padding")
    return F.avg_pool2d(x, attributes["kernel_shape"], attributes["strides"])


def _softmax(graph: TorchGraph, attributes: Mapping[str, Any], x: Value) -> Value:
    return x.softmax(attributes.get("axis", -1))


OPERATORS: Mapping[str, Callable[..., Value]] = {
    "Add": _binary(lambda left, right: left + right),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Cos": _unary(torch.cos),
    "Div": _binary(lambda left, right: left / right),
    "Exp": _unary(torch.exp),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _binary(lambda left, right: left @ right),
    "Mul": _binary(lambda left, right: left * right),
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda graph, attributes, x: np.array(x.shape, np.int64),
    "Sigmoid": _unary(torch.sigmoid),
    "Sin": _unary(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _binary(lambda left, right: left - right),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

"""Graphs of a few nodes with the signatures of the model's, as the exporter has them before it lowers them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from kandinsky_export.precision.lowering import Draft
from tests.runtime.fake_bundle import CHANNELS, FACTOR, WIDTH, signatures

Array = npt.NDArray[np.float32]
OUT, HIDDEN = 2 * CHANNELS, 8
SHAPES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "unet": {
        "time.weight": (1, HIDDEN),
        "embeds.weight": (WIDTH, HIDDEN),
        "conv_in.weight": (HIDDEN, 2 * CHANNELS + 1, 3, 3),
        "conv_mid.weight": (HIDDEN, HIDDEN, 3, 3),
        "norm.weight": (1, HIDDEN, 1, 1),
        "conv_out.weight": (OUT, HIDDEN, 3, 3),
        "conv_out.bias": (1, OUT, 1, 1),
    },
    "movq_encoder": {"conv.weight": (CHANNELS, 3, FACTOR, FACTOR)},
    "movq_decoder": {"conv.weight": (CHANNELS, 3, FACTOR, FACTOR)},
}


def drafts(change: Callable[[str, Array], Array] = lambda name, values: values) -> dict[str, Draft]:
    """By component; `change` makes other weights of the seeded ones, given `component.name`."""
    rng = np.random.default_rng(3)
    specs, made = signatures(), {}
    for component, shapes in SHAPES.items():
        weights = {
            name: change(
                f"{component}.{name}",
                (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:], initial=1))).astype(np.float32),
            )
            for name, shape in shapes.items()
        }
        graph = helper.make_graph(
            _named(NODES[component]()),
            component,
            [
                helper.make_tensor_value_info(item.name, TensorProto.FLOAT, item.dims)
                for item in specs[component].inputs
            ],
            [
                helper.make_tensor_value_info(item.name, TensorProto.FLOAT, [str(dim) for dim in item.dims])
                for item in specs[component].outputs
            ],
            [numpy_helper.from_array(array, name) for name, array in CONSTANTS.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        for name, shape in shapes.items():
            tensor = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
        made[component] = Draft(specs[component], model, {name: array.view for name, array in weights.items()})
    return made


def make_folders(folder: Path) -> Path:
    """One for each component, as the exporter makes them."""
    for component in SHAPES:
        (folder / component).mkdir(parents=True)
    return folder


CONSTANTS: Mapping[str, npt.NDArray[np.generic]] = {
    "groups": np.int64([0, 2, -1]),
    "scale": np.ones(2, np.float32),
    "shift": np.zeros(2, np.float32),
    "rate": np.float32([[0.01]]),
    "last": np.int64([1]),
    "spatial": np.int64([2, 3]),
}


def _named(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    for number, node in enumerate(nodes):
        node.name = f"{node.op_type}.{number}"
    return nodes


def _unet() -> list[onnx.NodeProto]:
    """Two convolutions with a residual path around the second, a group norm, and both conditions."""
    node, pads = helper.make_node, [1, 1, 1, 1]
    return [
        node("Unsqueeze", ["timestep", "last"], ["t"]),
        node("Mul", ["t", "rate"], ["phase"]),
        node("Sin", ["phase"], ["wave"]),
        node("MatMul", ["wave", "time.weight"], ["time"]),
        node("MatMul", ["image_embeds", "embeds.weight"], ["embeds"]),
        node("Add", ["time", "embeds"], ["condition"]),
        node("Unsqueeze", ["condition", "spatial"], ["conditions"]),
        node("Conv", ["sample", "conv_in.weight"], ["first"], pads=pads),
        node("Reshape", ["first", "groups"], ["grouped"]),
        node("InstanceNormalization", ["grouped", "scale", "shift"], ["normal"]),
        node("Shape", ["first"], ["shape"]),
        node("Reshape", ["normal", "shape"], ["map"]),
        node("Mul", ["map", "norm.weight"], ["scaled"]),
        node("Add", ["scaled", "conditions"], ["shifted"]),
        node("Sigmoid", ["shifted"], ["gate"]),
        node("Mul", ["shifted", "gate"], ["active"]),
        node("Conv", ["active", "conv_mid.weight"], ["second"], pads=pads),
        node("Tanh", ["second"], ["bounded"]),
        node("Conv", ["bounded", "conv_out.weight"], ["out"], pads=pads),
        node("Add", ["out", "conv_out.bias"], ["noise_pred"]),
    ]


def _encoder() -> list[onnx.NodeProto]:
    return [helper.make_node("Conv", ["image", "conv.weight"], ["latents"], strides=[FACTOR, FACTOR])]


def _decoder() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Tanh", ["latents"], ["bounded"]),
        helper.make_node("ConvTranspose", ["bounded", "conv.weight"], ["image"], strides=[FACTOR, FACTOR]),
    ]


NODES: Mapping[str, Callable[[], list[onnx.NodeProto]]] = {
    "unet": _unet,
    "movq_encoder": _encoder,
    "movq_decoder": _decoder,
}

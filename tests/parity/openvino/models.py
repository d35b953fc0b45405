"""For the tests of the rewrites for OpenVINO: the exporter's graphs, a model's output, and the reasons of refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kandinsky_runtime.engines.rewrites import Outcome

SHAPES = {
    "unet": {"sample": [2, 9, 8, 16], "timestep": [2], "image_embeds": [2, 32]},
    "movq_encoder": {"image": [1, 3, 64, 128]},
    "movq_decoder": {"latents": [1, 4, 8, 16]},
}


def of_component(bundle: Path, component: str) -> Any:
    """The float32 graph of a component, for a fixed shape that is wider than high."""
    import openvino

    model = openvino.Core().read_model(bundle / component / "model-fp32.onnx")
    shapes = {}
    for port in model.inputs:
        sizes = zip(port.partial_shape, SHAPES[component][port.any_name], strict=True)
        shapes[port.any_name] = [length.get_length() if length.is_static else given for length, given in sizes]
    model.reshape(shapes)
    return model


def feeds_of(model: Any) -> dict[str, np.ndarray]:
    """Random inputs (seeded) of a model with fixed shapes."""
    rng = np.random.default_rng(0)
    return {port.any_name: rng.standard_normal(list(port.shape), np.float32) for port in model.inputs}


def computed(model: Any, feeds: dict[str, np.ndarray], precision: str = "f32") -> np.ndarray:
    """The one output of a model."""
    import openvino

    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    (output,) = compiled(feeds).values()
    return np.array(output)


def kinds(model: Any) -> list[str]:
    """The types of a model's nodes."""
    return [node.get_type_name() for node in model.get_ordered_ops()]


def reasons(outcome: Outcome) -> set[str]:
    """Why a rewrite left its candidates unchanged."""
    return {refusal.reason for refusal in outcome.refusals}

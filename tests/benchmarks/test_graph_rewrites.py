"""The rewrites whose kernels are counted leave a graph's numbers as they are, to what 16 bits hold."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.graph_rewrites import REWRITES
from kandinsky_export.tensorrt.shapes import walk
from kandinsky_export.verification.decibels import decibels

# Of the tiny UNet.
NORMS, ATTENTIONS = 51, 10
# fp16 has 11 binary digits; a few hundred roundings leave about 55.
LEAST_DECIBELS = 50
SIZES = {"sample": (2, 9, 16, 16), "timestep": (2,), "image_embeds": (2, 32)}


@pytest.fixture(scope="module")
def graph(tiny_lower_bundle: Path) -> onnx.ModelProto:
    """The tiny UNet in fp16, with its weights."""
    return onnx.load(tiny_lower_bundle / "unet" / "model-fp16.onnx")


@pytest.fixture(scope="module")
def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in SIZES.items()}
    return arrays | {"timestep": np.full(2, 501, np.float32)}


@pytest.fixture(scope="module")
def expected(tiny_lower_bundle: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    return run(onnx.load(tiny_lower_bundle / "unet" / "model-fp32.onnx"), feeds)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # unread initializers
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("title", REWRITES)
def test_the_numbers_stay(
    title: str, graph: onnx.ModelProto, feeds: dict[str, np.ndarray], expected: np.ndarray
) -> None:
    model = onnx.ModelProto.FromString(graph.SerializeToString())
    shapes = {
        name: value.shape
        for site in walk(model, SIZES)
        for name, value in zip(site.node.output, site.outputs, strict=True)
        if value is not None and value.shape is not None
    }
    places = [rewrite(model, shapes) for rewrite in REWRITES[title]]
    assert places == [] or places[0]
    assert decibels(expected, run(model, feeds)) > LEAST_DECIBELS


def test_the_places(graph: onnx.ModelProto) -> None:
    before = operators(graph)
    assert (before["InstanceNormalization"], before["Softmax"]) == (NORMS, ATTENTIONS)
    model = onnx.ModelProto.FromString(graph.SerializeToString())
    (norms, products, tokens) = (
        rewrite(model, {}) for rewrite in REWRITES["norms in 16 bits, one product, tokens before heads"]
    )
    assert (norms, products, tokens) == (NORMS, ATTENTIONS, 2 * ATTENTIONS)
    after = operators(model)
    assert before["Cast"] - after["Cast"] == 2 * NORMS
    assert before["MatMul"] - after["MatMul"] == 2 * ATTENTIONS

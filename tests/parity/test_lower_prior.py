"""A prior in fp16 and bf16: its graphs' types, and its embeddings on the CPU compared with float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest

from kandinsky_export.bundle_export import export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.graphs.signatures import BATCH, TOKENS
from kandinsky_export.precision import lowering as precision_module
from kandinsky_export.random_weights.sample_prior import write_sample_prior
from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.prior.pipeline import PriorPipeline
from scripts.goldens.prior import PICTURES
from tests.export.graphs.rewrites.strong_types import type_faults, types_of

COMPONENTS = ("text_encoder", "image_encoder", "prior")
LOW_TYPES = {"onnx-fp16": onnx.TensorProto.FLOAT16, "onnx-bf16": onnx.TensorProto.BFLOAT16}
# dB of the embeddings above their error after 25 steps: 11 digits after a few hundred roundings, as for the decoder's
# graphs. An attention whose masks overflow, or a wrong cast, lies below 20.
LEAST_DB = 45.0


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prior") / "checkpoint"
    write_sample_prior(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lower") / "bundle"
    export_bundle(
        Checkpoint.open(tiny_checkpoint),
        out,
        name="tiny",
        prior=PriorCheckpoint.open(prior),
        prior_name="prior",
        variants=("onnx-fp32", *LOW_TYPES),
    )
    return out


def graph(bundle: Path, component: str, variant: str) -> onnx.ModelProto:
    files = Bundle.open(bundle).component(component).variants[variant].files
    return onnx.load(bundle / files["graph"], load_external_data=False)


@pytest.mark.parametrize("variant", LOW_TYPES)
@pytest.mark.parametrize("component", COMPONENTS)
def test_types(component: str, variant: str, bundle: Path) -> None:
    model = graph(bundle, component, variant)
    assert type_faults(model) == []
    types = types_of(model)
    products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    low = [node for node in products if types[node.output[0]] == LOW_TYPES[variant]]
    assert len(low) > 0.9 * len(products) > 5
    exact = [node for node in model.graph.node if node.op_type in ("LayerNormalization", "Sin", "Cos")]
    assert {types[node.output[0]] for node in exact} == {onnx.TensorProto.FLOAT}
    inside = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert set(inside.values()) <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


@pytest.mark.parametrize("component", ["text_encoder", "prior"])
def test_masks_stay_in_float32_in_fp16(component: str, bundle: Path) -> None:
    """They reach -10000 in the text encoder and -20000 in the prior, beyond what fp16 is trusted with."""
    numerics = Bundle.open(bundle).component(component).variants["onnx-fp16"].numerics
    assert any(group["reason"].startswith("values beyond 8188") for group in numerics["float32"])
    runs = {"text_encoder": {"texts": 4}, "prior": {"steps": 25, "texts": 2}}
    assert numerics["trajectory"] == runs[component]


def test_embeddings_in_fp16(bundle: Path) -> None:
    prompts = ["a hat", "the winter sea at night " * 3, PICTURES["waves"]()]
    outputs = {}
    for precision in ("fp32", "fp16"):
        with PriorPipeline.load(bundle, "onnxruntime", precision) as pipeline:
            outputs[precision] = pipeline(prompts, "blurry", seed=5)
    for name in ("image_embeds", "negative_image_embeds"):
        want, got = (getattr(outputs[precision], name) for precision in ("fp32", "fp16"))
        for sample in range(len(prompts)):
            assert decibels(want[sample], got[sample]) >= LEAST_DB, (name, sample)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("variant", LOW_TYPES)
def test_what_rounding_costs_is_measured(component: str, variant: str, bundle: Path) -> None:
    stored = Bundle.open(bundle).component(component).variants[variant]
    precision = variant.removeprefix("onnx-")
    assert stored.computed == precision
    assert stored.numerics["rounding_error_db"] > precision_module.LEAST_DB[precision]


@pytest.mark.parametrize("component", COMPONENTS)
def test_openvino_reads_the_graphs_in_bf16(component: str, bundle: Path) -> None:
    """In float32, as it compiles them here: their weights are the rounded ones."""
    opened = Bundle.open(bundle)
    feeds, outputs = component_feeds(component, opened), {}
    for variant in ("onnx-fp32", "onnx-bf16"):
        file = opened.component(component).variants[variant].files["graph"]
        compiled = openvino.Core().compile_model(str(bundle / file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs[variant] = [np.array(value) for value in compiled(feeds).values()]
    for want, got in zip(outputs["onnx-fp32"], outputs["onnx-bf16"], strict=True):
        assert 30 < decibels(want, got) < 70


def component_feeds(component: str, bundle: Bundle) -> dict[str, np.ndarray[Any, Any]]:
    """Random inputs of 2 samples, masks of ones, texts of 8 tokens."""
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for tensor in bundle.component(component).spec.inputs:
        shape = tensor.shape({BATCH: 2, TOKENS: 8})
        if tensor.dtype == "int64":
            feeds[tensor.name] = rng.integers(0, 100, shape)
        elif "mask" in tensor.name:
            feeds[tensor.name] = np.ones(shape, np.float32)
        else:
            feeds[tensor.name] = rng.standard_normal(shape, np.float32)
    return feeds

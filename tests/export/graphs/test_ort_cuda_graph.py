"""Graphs for ONNX Runtime's CUDA provider: attention against the library's CPU kernel, norms by their formula.

Covers `rewrites.fused_attention` and `rewrites.fused_group_norm`, too.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from kandinsky_export.bundle_export import export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.graphs.ort_cuda_graph import fuse, with_cuda_graphs
from kandinsky_export.graphs.rewrites.fused_attention import DOMAIN, fuse_attention
from kandinsky_export.graphs.rewrites.fused_group_norm import fuse_group_norm
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines.onnxruntime.cuda import GRAPH_ROLE
from kandinsky_runtime.engines.rewrites import Outcome, Refusal
from kandinsky_runtime.errors import UsageError
from tests.tolerances import FUSED, FUSED_NORM

HEADS, WIDTH = 2, 4


class GroupNorm(OpRun):
    """The operator as its documentation describes it: channels last, groups of neighbouring channels, perhaps SiLU."""

    op_domain = DOMAIN

    def _run(  # type: ignore[override]
        self,
        x: Any,
        scale: Any,
        bias: Any,
        activation: int = 0,
        channels_last: int = 1,
        epsilon: float = 1e-5,
        groups: int = 1,
    ) -> tuple[Any]:
        assert channels_last == 1
        batch, height, width, channels = x.shape
        grouped = x.astype(np.float64).reshape(batch, height, width, groups, channels // groups)
        mean, variance = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
        y = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias
        return ((y / (1 + np.exp(-y)) if activation else y).astype(x.dtype),)


def attention_graph(*, parts: int = 2, **changes: Any) -> onnx.ModelProto:
    """Attention of `x` over its own tokens, and over as many as `context` has before them."""
    size = HEADS * WIDTH
    perm = changes.get("perm", [0, 2, 1, 3])
    nodes = []

    def split(source: str, name: str) -> str:
        nodes.append(helper.make_node("Reshape", [source, "split"], [f"{name}.4d"]))
        nodes.append(helper.make_node("Transpose", [f"{name}.4d"], [name], perm=perm))
        return name

    def joined(kind: str) -> str:
        names = [split(source, f"{kind}.{source}") for source in ("context", "x")[-parts:]]
        nodes.append(helper.make_node("Concat", names, [kind], axis=2))
        return kind

    nodes.append(helper.make_node("Transpose", [joined("k")], ["kT"], perm=changes.get("keys", [0, 1, 3, 2])))
    nodes.append(helper.make_node("MatMul", [split("x", "q"), "kT"], ["product"]))
    nodes.append(helper.make_node("Mul", [changes.get("scores", "product"), "scale"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["shares"], name="softmax", axis=-1))
    nodes.append(helper.make_node("MatMul", ["shares", joined("v")], ["heads"]))
    nodes.append(helper.make_node("Transpose", ["heads"], ["tokens"], perm=changes.get("heads", [0, 2, 1, 3])))
    nodes.append(helper.make_node(changes.get("joining", "Reshape"), ["tokens", "join"], ["y"]))
    if changes.get("shares_read_twice"):
        nodes.append(helper.make_node("Identity", ["shares"], ["also"]))
    constants = [
        numpy_helper.from_array(np.array([0, 0, HEADS, WIDTH]), "split"),
        numpy_helper.from_array(np.array([0, 0, size]), "join"),
        numpy_helper.from_array(np.array([0.3], np.float32), "scale"),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", length, size])
        for name, length in (("x", "s"), ("context", "t"))
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "s", size])
    graph = helper.make_graph(nodes, "attention", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def norm_graph(*, silu: bool, epsilon: float = 1e-5, groups: int = 2, **changes: Any) -> onnx.ModelProto:
    """A group norm of a map with 6 channels, as the exporter leaves it."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node(changes.get("source", "Reshape"), ["x", "groups"], ["rows"]),
        helper.make_node("InstanceNormalization", ["rows", "ones", "zeros"], ["normal"], epsilon=epsilon),
        helper.make_node("Shape", [changes.get("shape_of", "x")], ["shape"]),
        helper.make_node("Reshape", ["normal", "shape"], ["map"]),
        helper.make_node("Unsqueeze", ["weight", "axes"], ["weight3"]),
        helper.make_node("Unsqueeze", ["bias", "axes"], ["bias3"]),
        helper.make_node("Mul", ["map", "weight3"], ["scaled"]),
        helper.make_node(changes.get("shift", "Add"), ["scaled", "bias3"], ["norm" if silu else "y"]),
    ]
    if silu:
        nodes += [helper.make_node("Sigmoid", ["norm"], ["gate"]), helper.make_node("Mul", ["norm", "gate"], ["y"])]
    ones = changes.get("ones", np.ones(groups, np.float32))
    constants = {
        "groups": changes.get("split", np.array([0, groups, -1])),
        "ones": ones,
        "zeros": np.zeros(groups, np.float32),
        "axes": changes.get("axes", np.array([1, 2])),
        "weight": rng.standard_normal(6).astype(np.float32),
        "bias": rng.standard_normal(6).astype(np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "norm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 6, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 6, "h", "w"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto, feeds: dict[str, Any]) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    return session.run(None, {name: value for name, value in feeds.items() if name in names})[0]


@pytest.mark.parametrize("parts", [1, 2])
def test_attention(parts: int) -> None:
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((2, length, 8), np.float32) for name, length in (("x", 5), ("context", 3))}
    model = attention_graph(parts=parts)
    wanted = run(model, feeds)
    assert fuse(model) == 1
    assert kinds(model) == {"MultiHeadAttention": 1} | ({"Concat": 2} if parts > 1 else {})
    np.testing.assert_allclose(run(model, feeds), wanted, atol=FUSED_NORM)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"perm": [0, 2, 3, 1]},
            "its query is not split into heads by Reshape (0, 0, N, D) and Transpose [0, 2, 1, 3]",
        ),
        ({"shares_read_twice": True}, "its weights are not read by one product with the values alone"),
        ({"keys": [0, 1, 2, 3]}, "its keys are transposed by [0, 1, 2, 3]; expected [0, 1, 3, 2]"),
        ({"heads": [0, 1, 2, 3]}, "its heads are transposed by [0, 1, 2, 3]; expected [0, 2, 1, 3]"),
        ({"scores": "x"}, "its scores are not a product of queries and keys"),
        ({"joining": "Expand"}, "its heads are not joined by one Reshape alone"),
    ],
)
def test_other_attention_is_left_as_it_is(changes: dict[str, Any], reason: str) -> None:
    model = attention_graph(**changes)
    before = model.SerializeToString()
    assert fuse_attention(model) == Outcome(0, [Refusal("softmax", reason)])
    assert model.SerializeToString() == before


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("groups", "epsilon"), [(1, 1e-5), (2, 0.5), (6, 1e-6)])
def test_group_norm(silu: bool, groups: int, epsilon: float) -> None:
    x = np.random.default_rng(0).standard_normal((2, 6, 4, 5), np.float32) * 3 + 1
    model = norm_graph(silu=silu, groups=groups, epsilon=epsilon)
    wanted = run(model, {"x": x})
    assert fuse(model) == 1
    assert kinds(model) == {"Transpose": 2, "GroupNorm": 1}
    assert {tensor.name for tensor in model.graph.initializer} == {"weight", "bias"}
    got = ReferenceEvaluator(model, new_ops=[GroupNorm]).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, wanted, atol=FUSED)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ones": np.array([1.0, 2.0], np.float32)}, "it has a scale or a bias of its own; expected 1 and 0"),
        ({"split": np.array([1, 2, -1])}, "its input is reshaped to [1, 2, -1]; expected [0, groups, -1]"),
        ({"axes": np.array([0, 1])}, "its scale is not a weight (C) read as (C, 1, 1)"),
        ({"source": "Expand"}, "its input is not split into groups by a Reshape"),
        ({"shape_of": "rows"}, "its output is not reshaped to the shape of its input, by one Reshape alone"),
        ({"shift": "Sub"}, "its output is not scaled by one Mul and shifted by one Add alone"),
    ],
)
def test_other_norms_are_left_as_they_are(changes: dict[str, Any], reason: str) -> None:
    model = norm_graph(silu=False, **changes)
    before = model.SerializeToString()
    assert fuse_group_norm(model) == Outcome(0, [Refusal("normal", reason)])
    assert fuse(model) == 0
    assert model.SerializeToString() == before


@pytest.mark.parametrize("component", ["unet", "movq_encoder", "movq_decoder"])
def test_every_attention_and_norm_of_the_bundle(component: str, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    shutil.copytree(tiny_bundle / component, tmp_path / component)
    extended = with_cuda_graphs(tmp_path, {component: bundle.component(component)})[component]
    assert extended.variants["paddle"] == bundle.component(component).variants["paddle"]
    files = extended.variants["onnx-fp32"].files
    assert files[GRAPH_ROLE] == f"{component}/model-fp32-cuda.onnx"
    plain, fused = (onnx.load(tmp_path / files[role], load_external_data=False) for role in ("graph", GRAPH_ROLE))
    before, after = kinds(plain), kinds(fused)
    assert after["MultiHeadAttention"] == before["Softmax"] > 0
    assert after["GroupNorm"] == before["InstanceNormalization"] > 0
    assert after["Softmax"] == after["InstanceNormalization"] == 0
    weights = [
        {tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL}
        for model in (plain, fused)
    ]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("bits", ["fp16", "bf16"])
def test_norms_that_are_written_as_sums(bits: str, tiny_lower_bundle: Path) -> None:
    """In a 16-bit graph most norms of the tiny UNet are; each becomes the provider's operator, as the others do."""
    model = onnx.load(tiny_lower_bundle / "unet" / f"model-{bits}.onnx", load_external_data=False)
    before = kinds(model)
    fuse(model)
    after = kinds(model)
    assert before["InstanceNormalization"] == 10
    assert (after["MultiHeadAttention"], after["GroupNorm"]) == (10, 51)
    assert after["InstanceNormalization"] == after["Softmax"] == 0


def test_bundle_without_an_onnx_graph(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cuda_graphs needs an ONNX variant; got paddle"):
        export_bundle(
            Checkpoint.open(tiny_checkpoint), tmp_path / "out", name="x", variants=("paddle",), cuda_graphs=True
        )
    assert not (tmp_path / "out").exists()


def test_attention_of_the_unet(tiny_bundle: Path) -> None:
    """On ONNX Runtime's CPU kernel of the same operator."""
    bundle = Bundle.open(tiny_bundle)
    files = bundle.paths(bundle.component("unet").variants["onnx-fp32"])
    model = onnx.load(files["graph"])
    rng = np.random.default_rng(0)
    sizes = {"batch": 2, "height": 8, "width": 16}
    feeds = {
        tensor.name: rng.standard_normal(tensor.shape(sizes), np.float32)
        for tensor in bundle.component("unet").spec.inputs
    }
    wanted = run(model, feeds)
    outcome = fuse_attention(model)
    assert outcome.rewritten > 0
    assert outcome.refusals == []
    model.opset_import.add(domain=DOMAIN, version=1)
    np.testing.assert_allclose(run(model, feeds), wanted, atol=FUSED)

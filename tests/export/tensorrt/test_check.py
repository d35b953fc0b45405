"""The readiness check for TensorRT: yes for the graphs that this project exports, no with the reason for others.

Covers `rules` and `shapes`, too: each reason is one of theirs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kandinsky_export.cli import main
from kandinsky_export.tensorrt.check import Findings, check_bundle, check_graph
from kandinsky_export.tensorrt.rules import operator_table
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span
from kandinsky_runtime.errors import BundleError, UsageError

COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
WIDE = Profile(Span(512, 768, 1024), Span(512, 768, 1024), Span(1, 2, 8))
FLOAT, HALF, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE
# x (batch, 4, height, 6) → y of the same shape.
DIMS = ("batch", 4, "height", 6)
SPEC = GraphSpec(
    (TensorSpec("x", "float32", DIMS),), (TensorSpec("y", "float32", DIMS),), {"batch": Range(), "height": Range()}
)
PROFILES = (GraphProfile(Profile(), {"batch": Span(1, 2, 4), "height": Span(2, 3, 8)}, 1, False),)


def constant(name: str, values: Any, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def check(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    spec: GraphSpec = SPEC,
    profiles: Sequence[GraphProfile] = PROFILES,
) -> Findings:
    """Check a graph of these nodes from x to y."""
    inputs, outputs = (
        [helper.make_tensor_value_info(item.name, FLOAT, list(item.dims)) for item in tensors]
        for tensors in (spec.inputs, spec.outputs)
    )
    graph = helper.make_graph(list(nodes), "graph", inputs, outputs, list(constants))
    return check_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), spec, profiles)


def node(kind: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are names with spaces between, `_` for one that is left out."""
    names = (["" if name == "_" else name for name in text.split()] for text in (inputs, outputs))
    return helper.make_node(kind, *names, **attributes)


# -- graphs that this project exports --


def test_the_exported_graphs_are_ready(tiny_bundle: Path) -> None:
    readiness = check_bundle(Bundle.open(tiny_bundle), [WIDE])
    assert readiness.ready
    assert {key: {name: found.reasons for name, found in items.items()} for key, items in readiness.graphs.items()} == {
        key: {"onnx-fp32": {}} for key in COMPONENTS
    }


def test_the_graphs_of_a_prior_are_ready(micro_prior_bundle: Path) -> None:
    # A micro UNet attends at 2 px a cell: at WIDE it has more elements than NVIDIA's builder takes.
    small = Profile(Span(64, 128, 256), Span(64, 128, 256), Span(1, 2, 4))
    readiness = check_bundle(Bundle.open(micro_prior_bundle), [small])
    reasons = {key: found.reasons for key, items in readiness.graphs.items() for found in items.values()}
    assert {"text_encoder", "image_encoder", "prior"} <= set(reasons)
    assert not any(reasons.values()), reasons


def test_every_operator_in_them_is_in_the_published_table(tiny_bundle: Path) -> None:
    table = operator_table()
    for component in COMPONENTS:
        model = onnx.load(tiny_bundle / component / "model-fp32.onnx", load_external_data=False)
        assert all(table.types[item.op_type] for item in model.graph.node)


def test_a_graph_of_one_node_is_ready() -> None:
    assert check([node("Sigmoid", "x")]) == Findings()


# -- graphs made to fail --


def cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return node("Cast", source, target, to=to)


FAILING: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], int, str]] = {
    "operator": (
        [node("BitShift", "x", direction="LEFT")],
        [],
        17,
        "the operator is not supported (by the table for TensorRT 10.15)",
    ),
    "unknown operator": (
        [node("Frobnicate", "x")],
        [],
        17,
        "the operator is not supported (by the table for TensorRT 10.15)",
    ),
    "domain": (
        [node("Gelu", "x", domain="com.microsoft")],
        [],
        17,
        "the operator is of the domain com.microsoft, which has no importer",
    ),
    "opset": ([node("Sigmoid", "x")], [], 8, "the graph is of opset 8; TensorRT 10.15 takes 9 to 24"),
    "type": (
        [cast("x", "i", INT64), node("Neg", "i", "j"), node("Clip", "j", "k"), cast("k", "y", FLOAT)],
        [],
        17,
        "does not run in INT64; it runs in FP32, FP16, BF16",
    ),
    "cast to a type that there is not": (
        [cast("x", "i", TensorProto.INT16), cast("i", "y", FLOAT)],
        [],
        17,
        "does not run in INT16; it runs in FP32, FP16, BF16, INT32, INT64, UINT8, BOOL",
    ),
    "mixed types": (
        [cast("x", "h", HALF), node("Mul", "h x", "m"), cast("m", "y", FLOAT)],
        [],
        17,
        "mixes FP16 and FP32 (T): a strongly typed network converts nothing",
    ),
    "weights of another type": (
        [node("Conv", "x w", kernel_shape=[1, 1])],
        [constant("w", np.ones((4, 4, 1, 1)), np.float16)],
        17,
        "mixes FP16 and FP32 (T): a strongly typed network converts nothing",
    ),
    "power of another type": (
        [node("Pow", "x e")],
        [constant("e", 2, np.int64)],
        17,
        "mixes FP32 and INT64 (base and exponent): a strongly typed network converts nothing",
    ),
    "double that float cannot hold": (
        [cast("x", "d", DOUBLE), node("Mul", "c d", "m"), cast("m", "y", FLOAT)],
        [constant("c", 1 + 2**-40, np.float64)],
        17,
        "has a DOUBLE constant that FP32 cannot hold: TensorRT narrows it",
    ),
    "data-dependent output": (
        [node("NonZero", "x", "n"), cast("n", "f", FLOAT), node("ReduceSum", "f", "s"), node("Add", "x s")],
        [],
        17,
        "the shape of its output depends on the data: no buffer can be made for it before the run",
    ),
    "shape from data": (
        [
            node("ReduceSum", "x", "s", keepdims=0),
            cast("s", "i", INT64),
            node("Unsqueeze", "i zero", "shape"),
            node("Expand", "one shape", "e"),
            node("ReduceSum", "e", "r"),
            node("Add", "x r"),
        ],
        [constant("zero", [0], np.int64), constant("one", [1.0])],
        17,
        "takes a shape from data: TensorRT has to know it before the run",
    ),
    "axes from a shape": (
        [node("Shape", "x", "s", start=3), node("Sub", "s five", "axis"), node("ReduceMax", "x axis")],
        [constant("five", [5], np.int64)],
        18,
        "takes axes that are no constant",
    ),
    "cubic resize": (
        [node("Resize", "x _ scales", mode="cubic")],
        [constant("scales", [1, 1, 1, 1])],
        17,
        "mode is cubic; TensorRT takes nearest, linear",
    ),
    "resize by cropping": (
        [node("Resize", "x roi scales", mode="linear", coordinate_transformation_mode="tf_crop_and_resize")],
        [constant("scales", [1, 1, 1, 1]), constant("roi", [0, 0, 0, 0, 1, 1, 1, 1])],
        17,
        "coordinate_transformation_mode is tf_crop_and_resize; TensorRT takes half_pixel, pytorch_half_pixel,"
        " tf_half_pixel_for_nn, asymmetric, align_corners",
    ),
    "resize with antialias": (
        [node("Resize", "x _ scales", mode="linear", antialias=1)],
        [constant("scales", [1, 1, 1, 1])],
        18,
        "antialias is 1; TensorRT takes 0",
    ),
    "resize of some axes": (
        [node("Resize", "x _ scales", axes=[2, 3])],
        [constant("scales", [1, 1])],
        18,
        "axes are [2, 3]; TensorRT takes all of them in order",
    ),
    "group normalisation of opset 21": (
        [node("GroupNormalization", "x s b", num_groups=2)],
        [constant("s", np.ones(4)), constant("b", np.zeros(4))],
        21,
        "is that of opset 21, with scale and bias per channel, which TensorRT 10.7 does not take (NVIDIA/TensorRT"
        " #4336): write it as Reshape, InstanceNormalization, Reshape, Mul, Add",
    ),
    "group normalisation of one group": (
        [node("GroupNormalization", "x s b", num_groups=1)],
        [constant("s", np.ones(1)), constant("b", np.zeros(1))],
        18,
        "with a single group comes out wrong in TensorRT 10.16 (NVIDIA/TensorRT #4756)",
    ),
    "second output of a layer normalisation": (
        [node("LayerNormalization", "x s", "y mean")],
        [constant("s", np.ones(6))],
        17,
        "has outputs after the first, which TensorRT does not compute",
    ),
    "pooling with dilations": (
        [node("MaxPool", "x", "y", kernel_shape=[1, 1], dilations=[2, 2])],
        [],
        17,
        "has dilations, which TensorRT does not take",
    ),
    "pooling over one dimension": (
        [node("Reshape", "x three", "r"), node("MaxPool", "r", "p", kernel_shape=[1]), node("Reshape", "p shape")],
        [constant("three", [0, 4, -1], np.int64), constant("shape", [0, 4, -1, 6], np.int64)],
        17,
        "pools over 1 dimensions; TensorRT does over 2 or 3",
    ),
    "scatter with a sum": (
        [node("ScatterND", "x i u", reduction="add")],
        [constant("i", np.zeros((1, 1)), np.int64), constant("u", np.zeros((1, 4, 2, 6)))],
        17,
        "reduction is add; TensorRT takes none",
    ),
    "control flow": (
        [
            helper.make_node(
                "If",
                ["yes"],
                ["y"],
                then_branch=helper.make_graph(
                    [node("Sigmoid", "x", "t")], "then", [], [helper.make_tensor_value_info("t", FLOAT, None)]
                ),
                else_branch=helper.make_graph(
                    [node("Sigmoid", "x", "e")], "else", [], [helper.make_tensor_value_info("e", FLOAT, None)]
                ),
            )
        ],
        [constant("yes", True, np.bool_)],
        17,
        "control flow is not looked into here, and no CUDA graph is captured over it",
    ),
    "a shape that does not fit": (
        [node("MatMul", "x w")],
        [constant("w", np.ones((5, 6)))],
        17,
        "its output cannot be inferred: [ShapeInferenceError] Incompatible dimensions for matrix multiplication",
    ),
    "another shape than the signature's": (
        [node("Concat", "x x", axis=2)],
        [],
        17,
        "at MAX, `y` comes out as (4, 4, 16, 6); expected (4, 4, 8, 6)",
    ),
    "a shape that holds for the smallest only": (
        [node("Add", "x b")],
        [constant("b", np.ones((1, 1, 2, 1)))],
        17,
        "its output cannot be inferred: [ShapeInferenceError] Incompatible dimensions",
    ),
    "nodes out of order": (
        [node("Sigmoid", "a"), node("Sigmoid", "x", "a")],
        [],
        17,
        "its output cannot be inferred: nothing before it makes its input a",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_would_fail_and_why(case: str) -> None:
    nodes, constants, opset, reason = FAILING[case]
    found = check(nodes, constants, opset)
    assert not found.ready
    assert any(text.startswith(reason) for text in found.reasons), found.reasons


PASSING: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], int]] = {
    "resize": ([node("Resize", "x _ scales", mode="linear")], [constant("scales", [1, 1, 1, 1])], 17),
    "group norm 18": (
        [node("GroupNormalization", "x s b", num_groups=2)],
        [constant("s", np.ones(2)), constant("b", np.zeros(2))],
        18,
    ),
    # TensorRT takes the statistics in float32 by itself (INormalizationLayer's default compute precision).
    "instance normalisation in fp16": (
        [cast("x", "h", HALF), node("InstanceNormalization", "h s b", "n"), cast("n", "y", FLOAT)],
        [constant("s", np.ones(4), np.float16), constant("b", np.zeros(4), np.float16)],
        17,
    ),
    "fp16": ([cast("x", "h", HALF), node("Mul", "h h", "m"), cast("m", "y", FLOAT)], [], 17),
    "shape": (
        [node("Shape", "x", "s"), node("Reshape", "x flat", "f"), node("Reshape", "f s")],
        [constant("flat", [-1], np.int64)],
        17,
    ),
    "axes": ([node("ReduceMax", "x axes", "m"), node("Add", "x m")], [constant("axes", [1, 2], np.int64)], 18),
    "where": ([node("Where", "b x x")], [constant("b", [True], np.bool_)], 17),
    "pool": ([node("MaxPool", "x", "y", kernel_shape=[1, 1])], [], 17),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_is_next_to_it_passes(case: str) -> None:
    assert check(*PASSING[case]) == Findings()


def test_a_double_that_float_holds_is_a_note() -> None:
    nodes = [cast("x", "d", DOUBLE), node("Mul", "c d", "m"), cast("m", "y", FLOAT)]
    found = check(nodes, [constant("c", 0.5, np.float64)])
    assert found.ready
    assert list(found.notes) == ["computes in FP32 in place of DOUBLE; its constants are the same in FP32"]


# A product of (n, 1) and (1, n), where n is 24 times the height.
SQUARE: tuple[list[onnx.NodeProto], list[onnx.TensorProto], int] = (
    [
        node("Reshape", "x column", "a"),
        node("Reshape", "x row", "b"),
        node("MatMul", "a b", "m"),
        node("ReduceMax", "m", "r"),
        node("Reshape", "r one", "s"),
        node("Add", "x s"),
    ],
    [constant(name, shape, np.int64) for name, shape in (("column", [-1, 1]), ("row", [1, -1]), ("one", [1]))],
    17,
)
# The largest height whose square has at most 2^40 elements.
LARGEST_HEIGHT = 43690


def up_to(height: int) -> tuple[GraphProfile, ...]:
    """The profile of one picture, of up to this height."""
    return (GraphProfile(Profile(), {"batch": Span(1, 1, 1), "height": Span(1, 1, height)}, 1, False),)


@pytest.mark.parametrize("height", [2048, LARGEST_HEIGHT])
def test_a_huge_tensor_is_a_note(height: int) -> None:
    found = check(*SQUARE, profiles=up_to(height))
    assert found.ready
    assert [text.partition(",")[0] for text in found.notes] == ["makes more than 2^31 - 1 elements"]


def test_a_tensor_larger_than_the_builder_takes() -> None:
    found = check(*SQUARE, profiles=up_to(LARGEST_HEIGHT + 1))
    assert found.reasons == {"makes more than 2^40 elements, which TensorRT-RTX 1.7.1 refuses: lower MAX": ["MatMul m"]}
    assert not found.notes


def test_the_nodes_are_named() -> None:
    found = check(
        [cast("x", "h", HALF), node("Mul", "h x", "m", name="first"), node("Mul", "h x", "n"), cast("m", "y", 1)]
    )
    assert found.lines() == [
        "fails: Mul first and 1 more: mixes FP16 and FP32 (T): a strongly typed network converts nothing"
    ]


@pytest.mark.parametrize("change", ["name", "type"])
def test_a_graph_that_is_not_the_signatures(change: str) -> None:
    other = TensorSpec("z" if change == "name" else "x", "float32" if change == "name" else "float16", DIMS)
    spec = GraphSpec((other,), SPEC.outputs, SPEC.ranges)
    inputs = [helper.make_tensor_value_info("x", FLOAT, list(DIMS))]
    outputs = [helper.make_tensor_value_info("y", FLOAT, list(DIMS))]
    model = helper.make_model(helper.make_graph([node("Sigmoid", "x")], "graph", inputs, outputs))
    (reason,) = check_graph(model, spec, PROFILES).reasons
    assert reason.startswith("the graph takes x FP32; the bundle's manifest says ")


# -- bundles and the command line --


@pytest.fixture
def broken_bundle(micro_bundle: Path, tmp_path: Path) -> Path:
    """A bundle whose UNet's graph has an operator that TensorRT does not have."""
    folder = Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))
    file = folder / "unet" / "model-fp32.onnx"
    model = onnx.load(file, load_external_data=False)
    next(item for item in model.graph.node if item.op_type == "Sigmoid").op_type = "BitwiseNot"
    file.write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["unet/model-fp32.onnx"]["bytes"] = file.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    status = main(["check", *map(str, args)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_command(micro_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--height", "64:128:256", "--width", "128", "--batch", "1:2:8")
    status, out, err = run(capsys, micro_bundle, *sizes)
    assert (status, err) == (0, "")
    assert "  at --height 64:128:256 --width 128 --batch 1:2:8\n" in out
    assert [line.split() for line in out.splitlines() if line.startswith(COMPONENTS)] == [
        [component, "onnx-fp32", "ready"] for component in COMPONENTS
    ]
    assert out.endswith("ready, as far as can be checked without TensorRT\n")


def test_command_if_a_graph_is_not_ready(broken_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, broken_bundle, "--json")
    data = json.loads(out)
    assert status == 1
    assert not data["ready"]
    assert data["operators"]["tensorrt"] == "10.15"
    assert {key: found["onnx-fp32"]["ready"] for key, found in data["graphs"].items()} == {
        "unet": False, "movq_encoder": True, "movq_decoder": True,
    }  # fmt: skip
    reasons = data["graphs"]["unet"]["onnx-fp32"]["reasons"]
    assert "the operator is not supported (by the table for TensorRT 10.15)" in reasons
    _, out, _ = run(capsys, broken_bundle)
    assert "unet          onnx-fp32  NOT READY\n" in out
    assert out.endswith("\nNOT READY\n")


def test_a_wrong_size(micro_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, micro_bundle, "--height", "tall")
    assert (status, out) == (2, "")
    assert err.startswith("k22-export: error: --height is 'tall'; expected MIN:OPT:MAX")


@pytest.mark.parametrize("arguments", [["--tensorrt"], ["--tensorrt", "checkpoint"]])
def test_the_old_spelling_names_the_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["verify", "bundle", *arguments])
    message = "k22-export verify: error: --tensorrt is now a command of its own: use k22-export check BUNDLE;"
    assert capsys.readouterr().err.startswith(message)


def test_a_bundle_without_onnx(micro_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    for component in manifest["components"].values():
        del component["variants"]["onnx-fp32"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="TensorRT reads ONNX, and the bundle has no such variant"):
        check_bundle(Bundle.open(folder))


def test_a_damaged_graph(micro_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))
    file = folder / "unet" / "model-fp32.onnx"
    file.write_bytes(b"\xff" * file.stat().st_size)
    with pytest.raises(BundleError, match=r"model-fp32.onnx of unet cannot be read"):
        check_bundle(Bundle.open(folder))

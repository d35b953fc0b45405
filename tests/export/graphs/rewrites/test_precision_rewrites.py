"""The rewrites that prepare a graph for fewer bits, and the one that simulates them.

Covers `folded_constants`, `opset`, `scaled_queries`, `simulated_rounding` and `graphs.rounding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kandinsky_export.errors import ExportError
from kandinsky_export.graphs.rewrites.element_types import lower_element_types
from kandinsky_export.graphs.rewrites.folded_constants import fold_constants
from kandinsky_export.graphs.rewrites.opset import raise_opset
from kandinsky_export.graphs.rewrites.scaled_queries import scale_queries
from kandinsky_export.graphs.rewrites.simulated_rounding import simulate_rounding
from kandinsky_export.graphs.rounding import rounded
from kandinsky_runtime.engines.rewrites import Refusal
from tests.tolerances import REWRITTEN_RELATIVE, TWO_ROUNDINGS

FLOAT = TensorProto.FLOAT
Arrays = dict[str, npt.NDArray[Any]]
RNG = np.random.default_rng(2)


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Arrays | None = None,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    rank: int = 3,
    opset: int = 17,
) -> onnx.ModelProto:
    for number, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}.{number}"
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, [f"{name}{i}" for i in range(rank)]) for name in inputs],
        [helper.make_tensor_value_info(name, FLOAT, [f"{name}{i}" for i in range(rank)]) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def run(made: onnx.ModelProto, **feeds: npt.NDArray[Any]) -> npt.NDArray[Any]:
    onnx.checker.check_model(made, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def ops(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


class TestFoldedConstants:
    def test_the_frequencies_of_the_timestep(self) -> None:
        """As the converter writes them: counted in float64, scaled, and raised."""
        nodes = [
            helper.make_node("Range", ["start", "stop", "step"], ["r"]),
            helper.make_node("Cast", ["r"], ["c"], to=FLOAT),
            helper.make_node("Mul", ["c", "rate"], ["m"]),
            helper.make_node("Exp", ["m"], ["e"]),
            helper.make_node("Mul", ["x", "e"], ["y"]),
        ]
        bounds = {"start": np.float64(0), "stop": np.float64(8), "step": np.float64(1)}
        made = model(nodes, {**bounds, "rate": np.float32(-0.5)})
        x = RNG.standard_normal((2, 1, 8)).astype(np.float32)
        want = run(made, x=x)
        assert fold_constants(made).rewritten == 4
        assert ops(made) == ["Mul"]
        np.testing.assert_allclose(run(made, x=x), want, rtol=TWO_ROUNDINGS)

    def refused(self, made: onnx.ModelProto) -> list[str]:
        before = made.SerializeToString()
        outcome = fold_constants(made)
        assert outcome.rewritten == 0
        assert made.SerializeToString() == before
        return [refusal.reason for refusal in outcome.refusals]

    def test_what_depends_on_an_input_stays(self) -> None:
        made = model([helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])])
        assert self.refused(made) == []

    def test_a_graph_output_keeps_its_producer(self) -> None:
        made = model([helper.make_node("Neg", ["c"], ["y"])], {"c": np.zeros((1, 1, 1), np.float32)})
        assert self.refused(made) == ["it makes `y`, an output of the graph"]

    def test_weights_elsewhere_are_not_read(self) -> None:
        made = model(
            [helper.make_node("Neg", ["w"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])],
            {"w": np.zeros((1, 1, 1), np.float32)},
        )
        made.graph.initializer[0].data_location = TensorProto.EXTERNAL
        assert self.refused(made) == ["it reads weights in another file: w"]

    def test_what_would_grow_stays(self) -> None:
        nodes = [helper.make_node("Expand", ["c", "shape"], ["e"]), helper.make_node("Add", ["x", "e"], ["y"])]
        made = model(nodes, {"c": np.float32([1]), "shape": np.int64([1, 130, 130])})
        assert self.refused(made) == ["its result has 16900 elements; at most 16384 are stored"]

    def test_random_numbers_stay(self) -> None:
        nodes = [helper.make_node("RandomNormalLike", ["c"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])]
        made = model(nodes, {"c": np.zeros((1, 1, 1), np.float32)})
        assert self.refused(made) == ["RandomNormalLike has another result in every run"]


class TestScaledQueries:
    SCALE = np.float32([0.25])

    def attention(self, **changes: Any) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Transpose", ["k"], ["t"], perm=[0, 2, 1]),
            helper.make_node("MatMul", ["q", "t"], ["p"]),
            helper.make_node("Mul", changes.get("product", ["p", "scale"]), ["m"]),
            helper.make_node("Softmax", ["m"], ["y"]),
        ]
        return model(
            nodes,
            {"scale": changes.get("scale", self.SCALE)},
            inputs=("q", "k"),
            outputs=changes.get("outputs", ("y",)),
        )

    @pytest.mark.parametrize("product", [["p", "scale"], ["scale", "p"]])
    def test_a_power_of_two_changes_no_bit(self, product: list[str]) -> None:
        made = self.attention(product=product)
        q, k = (RNG.standard_normal((2, 5, 8)).astype(np.float32) for _ in "qk")
        want = run(made, q=q, k=k)
        assert scale_queries(made).rewritten == 1
        assert ops(made) == ["Transpose", "Mul", "MatMul", "Softmax"]
        np.testing.assert_array_equal(run(made, q=q, k=k), want)

    def test_another_scale_changes_rounding_only(self) -> None:
        made = self.attention(scale=np.float32([0.3535]))
        q, k = (RNG.standard_normal((2, 5, 8)).astype(np.float32) for _ in "qk")
        want = run(made, q=q, k=k)
        assert scale_queries(made).rewritten == 1
        np.testing.assert_allclose(run(made, q=q, k=k), want, rtol=REWRITTEN_RELATIVE)

    def test_scores_beyond_fp16_are_within_it_afterwards(self) -> None:
        made = self.attention()
        q = np.full((1, 1, 4), 200, np.float32)
        k = np.stack([np.full((2, 4), sign, np.float32) for sign in (100,)])
        scale_queries(made)
        lower_element_types(made, "fp16")
        assert np.isfinite(run(made, q=q, k=k)).all()  # 80,000 before the scale

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"scale": np.ones((5, 5), np.float32)}, "0 factors of its scores are single numbers; expected 1"),
            ({"outputs": ("y", "p")}, "the product p is read 2 times; expected once"),
            ({"outputs": ("y", "m")}, "the multiple m is read 2 times; expected once"),
            ({"product": ["p", "p"]}, "0 factors of its scores are single numbers; expected 1"),
            ({"product": ["scale", "scale"]}, "2 factors of its scores are single numbers; expected 1"),
            ({"product": ["t", "scale"]}, "its scores are multiples of the result of Transpose; expected MatMul"),
            ({"product": ["q", "scale"]}, "its scores are multiples of the result of an input or a weight; expected"),
        ],
    )
    def test_refusals(self, changes: dict[str, Any], reason: str) -> None:
        made = self.attention(**changes)
        before = made.SerializeToString()
        outcome = scale_queries(made)
        assert outcome.rewritten == 0
        (refusal,) = outcome.refusals
        assert refusal.node == "Softmax.3"
        assert refusal.reason.startswith(reason)
        assert made.SerializeToString() == before

    def test_a_softmax_without_a_scale(self) -> None:
        made = model([helper.make_node("Softmax", ["x"], ["y"], name="softmax")])
        assert scale_queries(made).refusals == [
            Refusal("softmax", "its scores come from an input or a weight; expected Mul")
        ]


class TestOpset:
    def test_nodes_are_converted_and_weights_stay_where_they_are(self) -> None:
        made = model(
            [helper.make_node("ReduceMean", ["x"], ["r"], axes=[2]), helper.make_node("Add", ["r", "w"], ["y"])],
            {"w": np.ones((1, 1, 3), np.float32)},
        )
        x = RNG.standard_normal((2, 4, 3)).astype(np.float32)
        want = run(made, x=x)
        raise_opset(made, 22)
        assert [(item.domain, item.version) for item in made.opset_import] == [("", 22)]
        np.testing.assert_array_equal(run(made, x=x), want)
        made.graph.initializer[0].data_location = TensorProto.EXTERNAL
        made.graph.initializer[0].external_data.add(key="location", value="weights")
        raise_opset(made, 22)
        assert made.graph.initializer[0].external_data[0].value == "weights"

    def test_no_conversion(self) -> None:
        made = model([helper.make_node("Neg", ["x"], ["y"])])
        with pytest.raises(ExportError, match="the graph cannot be converted to opset 9999"):
            raise_opset(made, 9999)


class TestSimulatedRounding:
    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_every_value_is_the_rounded_one(self, precision: str) -> None:
        """The result of a node that computes nothing is the input in the other type, bit for bit."""
        made = model([helper.make_node("Identity", ["x"], ["y"])], opset=22)
        lower_element_types(made, precision)
        assert simulate_rounding(made) == 2
        x = np.exp(RNG.uniform(-5, 5, (4, 50, 50))).astype(np.float32) * RNG.choice([-1, 1], (4, 50, 50))
        x = x.astype(np.float32)
        want = rounded(x, precision)
        wide = want.astype(np.float32) if precision == "fp16" else (want.astype(np.uint32) << 16).view(np.float32)
        assert np.any(wide != x)
        np.testing.assert_array_equal(run(made, x=x), wide)

    def test_a_node_kept_in_float32_is_not_rounded(self) -> None:
        made = model([helper.make_node("Exp", ["x"], ["y"], name="kept")])
        lower_element_types(made, "fp16", kept={"kept"})
        assert simulate_rounding(made) == 0

    def test_weights_stay_as_they_are_stored(self) -> None:
        made = model([helper.make_node("Mul", ["x", "w"], ["y"])], {"w": np.float32([[[0.1]]])})
        lower_element_types(made, "fp16")
        simulate_rounding(made)
        assert numpy_helper.to_array(made.graph.initializer[0]).dtype == np.float16
        x = np.ones((1, 1, 1), np.float32)
        np.testing.assert_array_equal(run(made, x=x), np.float32(np.float16(0.1)).reshape(1, 1, 1))


class TestRounding:
    def test_fp16_is_numpys(self) -> None:
        values = np.float32([0.1, 65519, 65520, -1e9, np.inf, 6e-8, 1e-8])
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(rounded(values, "fp16"), values.astype(np.float16))

    def test_bf16_is_onnxs(self) -> None:
        values = RNG.standard_normal(1000).astype(np.float32) * np.float32(10) ** RNG.integers(-30, 30, 1000)
        values = np.concatenate([values, [0, -0.0, np.inf, -np.inf, 1.0, 3.4e38]]).astype(np.float32)
        want = [helper.float32_to_bfloat16(float(value)) for value in values]
        np.testing.assert_array_equal(rounded(values, "bf16"), np.array(want, np.uint16))

    @pytest.mark.parametrize(("bits", "want"), [(0x3F808000, 0x3F80), (0x3F818000, 0x3F82), (0x3F808001, 0x3F81)])
    def test_bf16_ties_go_to_even(self, bits: int, want: int) -> None:
        assert rounded(np.array([bits], np.uint32).view(np.float32), "bf16").tolist() == [want]

    def test_not_a_number_stays_one(self) -> None:
        bits = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF], np.uint32)
        halves = rounded(bits.view(np.float32), "bf16").astype(np.uint32) << 16
        assert np.isnan(halves.view(np.float32)).all()

    def test_float32_is_itself(self) -> None:
        values = np.float32([0.1])
        assert rounded(values, "fp32") is values

"""Types written into a graph: strongly typed everywhere, float32 at the border, and the same values up to rounding."""

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
from kandinsky_export.graphs.rewrites.element_types import lower_element_types, value_types
from tests.export.graphs.rewrites.strong_types import type_faults
from tests.tolerances import BF16_ROUNDING

FLOAT, FP16, BF16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64
LOW = {"fp16": FP16, "bf16": BF16}
Arrays = dict[str, npt.NDArray[Any]]
X = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)


def model(nodes: Sequence[onnx.NodeProto], constants: Arrays | None = None, outputs: Sequence[str] = ("y",)) -> Any:
    """A checked model of opset 22 from `x` (a, b) to outputs of two dimensions, all float32."""
    for number, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}.{number}"
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["a", "b"])],
        [helper.make_tensor_value_info(name, FLOAT, [f"{name}0", f"{name}1"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(made)
    return made


def lowered(made: onnx.ModelProto, precision: str = "fp16", **options: Any) -> int:
    count = lower_element_types(made, precision, **options)
    onnx.checker.check_model(made, full_check=True)
    assert type_faults(made) == []
    assert {value.type.tensor_type.elem_type for value in (*made.graph.input, *made.graph.output)} == {FLOAT}
    return count


def run(made: onnx.ModelProto) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x": X})
    return np.asarray(result)


def ops(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_chain_has_casts_at_its_ends_only(precision: str) -> None:
    made = model([helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])])
    assert lowered(made, precision) == 2
    assert ops(made) == ["Cast", "Sigmoid", "Mul", "Cast"]
    types = value_types(made)
    assert types["s"] == LOW[precision]
    assert [types[name] for node in made.graph.node if node.op_type == "Mul" for name in node.input] == [
        LOW[precision]
    ] * 2


def test_values_are_those_of_float32_up_to_rounding() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"]),
    ]
    constants = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "b": np.float32([0.1, 0.2, 0.3])}
    made = model(nodes, constants)
    want = run(made)
    assert lowered(made) == 3
    np.testing.assert_allclose(run(made), want, rtol=BF16_ROUNDING)
    assert np.abs(run(made) - want).max() > 0


def test_a_kept_node_computes_in_float32() -> None:
    made = model(
        [
            helper.make_node("Neg", ["x"], ["n"]),
            helper.make_node("Exp", ["n"], ["e"], name="kept"),
            helper.make_node("Neg", ["e"], ["y"]),
        ]
    )
    assert lowered(made, kept={"kept"}) == 2
    assert ops(made) == ["Cast", "Neg", "Cast", "Exp", "Cast", "Neg", "Cast"]
    assert value_types(made)["e"] == FLOAT


def test_everything_kept_is_the_graph_as_it_was() -> None:
    made = model([helper.make_node("Exp", ["x"], ["y"], name="kept")])
    before = made.SerializeToString()
    assert lowered(made, kept={"kept"}) == 0
    assert made.SerializeToString() == before


def test_a_value_is_cast_once_however_many_read_it() -> None:
    made = model(
        [
            helper.make_node("Neg", ["x"], ["a"]),
            helper.make_node("Exp", ["x"], ["b"]),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ]
    )
    lowered(made)
    assert ops(made).count("Cast") == 2


def test_constants_are_converted_and_what_float32_reads_stays() -> None:
    made = model(
        [
            helper.make_node("Mul", ["x", "c"], ["m"]),
            helper.make_node("Mul", ["m", "c"], ["y"], name="kept"),
        ],
        {"c": np.float32([0.1])},
    )
    lowered(made, kept={"kept"})
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    assert {name: array.dtype for name, array in stored.items()} == {"c": np.float32, "c/fp16": np.float16}
    assert stored["c/fp16"] == np.float16(0.1)


def test_a_stored_weight_is_widened_where_float32_reads_it() -> None:
    made = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["m"]),
            helper.make_node("MatMul", ["x", "w"], ["n"], name="kept"),
            helper.make_node("Add", ["m", "n"], ["y"]),
        ],
        {"w": np.eye(4, dtype=np.float32)},
    )
    (weight,) = made.graph.initializer
    weight.data_location = TensorProto.EXTERNAL
    weight.ClearField("raw_data")
    weight.external_data.add(key="location", value="w")
    lower_element_types(made, "fp16", kept={"kept"}, stored={"w"})
    assert type_faults(made) == []
    (weight,) = made.graph.initializer
    assert weight.data_type == FP16
    kept = next(node for node in made.graph.node if node.name == "kept")
    assert kept.input[1] == "w/fp32"


def test_the_scales_of_a_resize_stay_float32() -> None:
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
        helper.make_node("Resize", ["u", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("Squeeze", ["r", "axes"], ["y"]),
    ]
    made = model(nodes, {"axes": np.int64([0, 1]), "scales": np.float32([1, 1, 2, 2])})
    assert lowered(made) == 3
    assert value_types(made)["scales"] == FLOAT


def test_shapes_are_taken_from_any_type_and_stay_what_they_are() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["n"]),
        helper.make_node("Shape", ["n"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["r"]),
        helper.make_node("Cast", ["s"], ["f"], to=FLOAT),
        helper.make_node("Add", ["r", "f"], ["y"]),
    ]
    made = model(nodes)
    lowered(made)
    assert value_types(made)["s"] == INT64
    assert ops(made).count("Cast") == 4  # x, the graph's own, f to fp16, y


def test_what_an_operator_does_not_have_in_bf16_stays_float32() -> None:
    """The schema decides."""
    made = model([helper.make_node("Det", ["x"], ["d"]), helper.make_node("Add", ["x", "d"], ["y"])])
    made.opset_import[0].version = 21  # Det takes bf16 from the next one on
    assert lowered(made, "bf16") == 1
    assert value_types(made)["d"] == FLOAT


def test_an_output_that_others_read_keeps_its_name_and_type() -> None:
    made = model([helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])], outputs=("y", "z"))
    assert lowered(made) == 2
    assert [value.name for value in made.graph.output] == ["y", "z"]


class TestRefusals:
    def test_a_graph_inside_a_node(self) -> None:
        branch = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["inner"])],
            "branch",
            [],
            [helper.make_tensor_value_info("inner", FLOAT, ["a", "b"])],
        )
        made = model(
            [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)], {"c": np.array(True)}
        )
        with pytest.raises(ExportError, match=r"^If\.0: a node with a graph inside it, If, has no types of its own$"):
            lower_element_types(made, "fp16")

    def test_an_operator_that_onnx_does_not_know(self) -> None:
        made = model([helper.make_node("Neg", ["x"], ["y"])])
        made.graph.node[0].domain = "com.other"
        made.opset_import.add(domain="com.other", version=1)
        with pytest.raises(ExportError, match=r"^Neg\.0: ONNX knows no com\.other operator Neg$"):
            lower_element_types(made, "fp16")

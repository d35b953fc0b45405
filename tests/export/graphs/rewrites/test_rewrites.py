"""The rewrites that clean a converted graph: the graph computes the same afterwards, and a refusal changes nothing.

Covers `constants`, `dead_nodes`, `equal_branches`, `no_ops`, `outcome`, `output_names` and `values`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kandinsky_export.graphs.onnx_graph import attach_weights, clean
from kandinsky_export.graphs.params_file import Placement
from kandinsky_export.graphs.rewrites.constants import constants_to_initializers
from kandinsky_export.graphs.rewrites.dead_nodes import remove_dead_nodes
from kandinsky_export.graphs.rewrites.equal_branches import inline_equal_branches
from kandinsky_export.graphs.rewrites.no_ops import remove_no_ops
from kandinsky_export.graphs.rewrites.output_names import name_outputs_at_source
from kandinsky_export.graphs.rewrites.values import read_instead, values_read
from kandinsky_runtime.engines.rewrites import Outcome

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)

Node: TypeAlias = onnx.NodeProto
Arrays = dict[str, npt.NDArray[Any]]
Rewrite = Callable[[onnx.ModelProto], Outcome]


def model(
    nodes: Sequence[Node],
    constants: Arrays | None = None,
    *,
    inputs: Sequence[tuple[str, int, list[Any] | None]] = (("x", FLOAT, ["a", "b"]),),
    outputs: Sequence[str] = ("y",),
    rank: int = 2,
) -> onnx.ModelProto:
    """A checked model of opset 17 whose outputs are float32 of one rank."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, FLOAT, [f"{name}{i}" for i in range(rank)]) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def run(made: onnx.ModelProto, feeds: Arrays) -> list[npt.NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[npt.NDArray[Any]] = session.run(None, feeds)
    return results


def ops(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


def applied(rewrite: Rewrite, made: onnx.ModelProto, feeds: Arrays | None = None) -> int:
    """How often `rewrite` did something, after checking that the graph is whole and computes the same, bit for bit."""
    feeds = {"x": X} if feeds is None else feeds
    before, count_before = run(made, feeds), len(made.graph.node)
    count = rewrite(made).rewritten
    onnx.checker.check_model(made, full_check=True)
    for got, want in zip(run(made, feeds), before, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.shape == want.shape
        assert got.dtype == want.dtype
    assert (len(made.graph.node) == count_before) == (count == 0)
    return count


def refused(rewrite: Rewrite, made: onnx.ModelProto) -> list[str]:
    """The reasons of the refusals, after checking that the graph did not change; none if there was no candidate."""
    before = made.SerializeToString()
    outcome = rewrite(made)
    assert outcome.rewritten == 0
    assert made.SerializeToString() == before
    return [refusal.reason for refusal in outcome.refusals]


def node(op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> Node:
    return helper.make_node(op, inputs, outputs, **attributes)


def branch(nodes: Sequence[Node], outputs: Sequence[str], constants: Arrays | None = None) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "branch",
        [],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )


def if_node(then: onnx.GraphProto, other: onnx.GraphProto, *outputs: str) -> Node:
    return node("If", ["condition"], *outputs, then_branch=then, else_branch=other)


CONDITION: tuple[tuple[str, int, list[Any] | None], ...] = (("x", FLOAT, ["a", "b"]), ("condition", BOOL, []))


class TestNoOps:
    @pytest.mark.parametrize(
        "idle",
        [
            node("Identity", ["h"], "i"),
            node("Cast", ["h"], "i", to=FLOAT),
            node("Add", ["h", "zero"], "i"),
            node("Add", ["zero", "h"], "i"),
            node("Add", ["h", "minus_zero"], "i"),
            node("Add", ["h", "zeros_1"], "i"),
            node("Mul", ["h", "one"], "i"),
            node("Mul", ["one", "h"], "i"),
            node("Mul", ["h", "ones_1"], "i"),
        ],
        ids=lambda item: f"{item.op_type} {' '.join(item.input)}",
    )
    def test_removed(self, idle: Node) -> None:
        constants = {
            "zero": np.float32(0),
            "minus_zero": np.float32(-0.0),
            "zeros_1": np.zeros(1, np.float32),
            "one": np.float32(1),
            "ones_1": np.ones(1, np.float32),
        }
        read = {name: np.asarray(constants[name]) for name in idle.input if name in constants}
        made = model([node("Exp", ["x"], "h"), idle, node("Neg", ["i"], "y")], read)
        assert applied(remove_no_ops, made) == 1
        assert ops(made) == ["Exp", "Neg"]

    def test_chains(self) -> None:
        nodes = [
            node("Identity", ["x"], "a"),
            node("Cast", ["a"], "b", to=FLOAT),
            node("Mul", ["b", "one"], "c"),
            node("Sub", ["a", "c"], "d"),
            node("Add", ["d", "b"], "y"),
        ]
        made = model(nodes, {"one": np.ones((), np.float32)})
        assert applied(remove_no_ops, made) == 3
        assert [list(item.input) for item in made.graph.node] == [["x", "x"], ["d", "x"]]

    @pytest.mark.parametrize(
        ("work", "constants", "reasons"),
        [
            (node("Cast", ["x"], "i", to=TensorProto.DOUBLE), {}, []),
            (node("Add", ["x", "c"], "i"), {"c": np.ones((), np.float32)}, []),
            (node("Mul", ["x", "c"], "i"), {"c": np.zeros((), np.float32)}, []),
            (node("Sub", ["c", "x"], "i"), {"c": np.zeros((), np.float32)}, []),
            (node("Add", ["x", "c"], "i"), {"c": np.zeros(3, np.float32)}, []),  # more than one number
            (node("Add", ["x", "c"], "i"), {"c": np.zeros((1, 1, 1), np.float32)}, []),  # a higher rank than vectors
            (
                node("Add", ["c", "e"], "i"),
                {"c": np.zeros((), np.float32), "e": np.zeros((), np.float32)},
                ["both operands are constants: c and e"],
            ),
            (node("Add", ["x", "x"], "i"), {}, []),
        ],
        ids=lambda item: f"{item.op_type} {' '.join(item.input)}" if isinstance(item, Node) else "",
    )
    def test_work_stays(self, work: Node, constants: Arrays, reasons: list[str]) -> None:
        made = model([work, node("Neg", ["i"], "y")], constants)
        assert refused(remove_no_ops, made) == reasons

    def test_a_zero_that_widens_a_scalar_stays(self) -> None:
        nodes = [node("ReduceSum", ["x"], "s", keepdims=0), node("Add", ["s", "zero"], "i"), node("Neg", ["i"], "y")]
        made = model(nodes, {"zero": np.zeros(1, np.float32)}, rank=1)
        assert refused(remove_no_ops, made) == ["zero may widen the shape of s, whose rank is 0"]
        assert run(made, {"x": X})[0].shape == (1,)

    def test_a_zero_beside_a_value_of_unknown_rank_stays(self) -> None:
        nodes = [node("Reshape", ["x", "shape"], "r"), node("Add", ["r", "zero"], "i"), node("Neg", ["i"], "y")]
        inputs = [("x", FLOAT, ["a", "b"]), ("shape", INT64, ["n"])]
        made = model(nodes, {"zero": np.zeros(1, np.float32)}, inputs=inputs)
        assert refused(remove_no_ops, made) == ["zero may widen the shape of r, whose rank is unknown"]
        scalar = model(nodes, {"zero": np.zeros((), np.float32)}, inputs=inputs)
        assert applied(remove_no_ops, scalar, {"x": X, "shape": np.array([3, 2])}) == 1

    @pytest.mark.parametrize("idle", [node("Identity", ["h"], "y"), node("Mul", ["h", "one"], "y")])
    def test_one_that_makes_a_graph_output_stays(self, idle: Node) -> None:
        made = model([node("Exp", ["x"], "h"), idle], {"one": np.ones((), np.float32)})
        assert refused(remove_no_ops, made) == ["it makes `y`, an output of the graph"]

    @pytest.mark.parametrize("depth", [1, 2])
    def test_values_that_branches_read(self, depth: int) -> None:
        """A branch, and a branch of a branch, read from the graph around them."""
        then, other = branch([node("Neg", ["i"], "t")], ["t"]), branch([node("Exp", ["i"], "e")], ["e"])
        if depth == 2:
            inner = [if_node(then, other, "deep")]
            then = branch(inner, ["deep"])
            other = branch([node("Abs", ["i"], "shallow")], ["shallow"])
        nodes = [node("Exp", ["x"], "h"), node("Identity", ["h"], "i"), if_node(then, other, "y")]
        for condition in (True, False):
            made = model(nodes, inputs=CONDITION)
            assert applied(remove_no_ops, made, {"x": X, "condition": np.array(condition)}) == 1
            assert values_read([made.graph.node[-1]]) == {"condition", "h"}

    def test_no_ops_inside_branches_stay(self) -> None:
        then, other = branch([node("Identity", ["x"], "t")], ["t"]), branch([node("Neg", ["x"], "e")], ["e"])
        assert refused(remove_no_ops, model([if_node(then, other, "y")], inputs=CONDITION)) == []

    @pytest.mark.parametrize("attached", [False, True])
    def test_weights_are_not_needed(self, attached: bool) -> None:
        """Dangling as the converter leaves them, or pointing into a file that is not there."""
        nodes = [
            node("Cast", ["x"], "c", to=FLOAT),
            node("MatMul", ["c", "weight"], "m"),
            node("Add", ["m", "zero"], "a"),
            node("Mul", ["a", "one"], "b"),
            node("Neg", ["b"], "y"),
        ]
        made = model(nodes, {"weight": X.T.copy(), "zero": np.zeros(1, np.float32), "one": np.ones((), np.float32)})
        before = run(made, {"x": X})
        made.graph.initializer.remove(next(item for item in made.graph.initializer if item.name == "weight"))
        if attached:
            attach_weights(made, {"weight": (3, 2)}, {"weight": Placement(1 << 33, 24)}, "no such file")
        assert remove_no_ops(made).rewritten == (3 if attached else 2)  # the rank of `m` follows from the weight's
        if attached:
            del made.graph.initializer[-1].external_data[:]
            made.graph.initializer[-1].CopyFrom(numpy_helper.from_array(X.T.copy(), "weight"))
        else:
            made.graph.initializer.append(numpy_helper.from_array(X.T.copy(), "weight"))
        np.testing.assert_array_equal(run(made, {"x": X})[0], before[0])


class TestEqualBranches:
    def test_inlined(self) -> None:
        """As ppdiffusers' contiguous() arrives: either side passes the same values on, in other words."""
        chain = [node("Identity", ["x"], "t1"), node("Identity", ["t1"], "t2")]
        then = branch([*chain, node("Identity", ["h"], "t3")], ["t2", "t3"])
        other = branch([node("Identity", ["x"], "e1"), node("Identity", ["h"], "e2")], ["e1", "e2"])
        nodes = [node("Exp", ["x"], "h"), if_node(then, other, "a", "b"), node("Sub", ["a", "b"], "y")]
        made = model(nodes, inputs=CONDITION)
        assert applied(inline_equal_branches, made, {"x": X, "condition": np.array(True)}) == 1
        assert [list(item.input) for item in made.graph.node] == [["x"], ["x", "h"]]

    def test_one_after_the_other(self) -> None:
        def both(value: str, name: str) -> tuple[onnx.GraphProto, onnx.GraphProto]:
            return tuple(branch([node("Identity", [value], f"{name}{i}")], [f"{name}{i}"]) for i in "01")

        nodes = [if_node(*both("x", "p"), "a"), if_node(*both("a", "q"), "b"), node("Neg", ["b"], "y")]
        made = model(nodes, inputs=CONDITION)
        assert applied(inline_equal_branches, made, {"x": X, "condition": np.array(False)}) == 2
        assert [list(item.input) for item in made.graph.node] == [["x"]]

    def test_what_a_branch_reads_of_one_that_went(self) -> None:
        same = [branch([node("Identity", ["x"], name)], [name]) for name in "pq"]
        unlike = branch([node("Exp", ["a"], "r")], ["r"]), branch([node("Neg", ["a"], "s")], ["s"])
        made = model([if_node(*same, "a"), if_node(*unlike, "y")], inputs=CONDITION)
        assert applied(inline_equal_branches, made, {"x": X, "condition": np.array(True)}) == 1
        assert values_read(made.graph.node) == {"condition", "x"}

    @pytest.mark.parametrize(
        ("then", "other", "reason"),
        [
            (
                [node("Identity", ["x"], "t")],
                [node("Identity", ["h"], "e")],
                "its branches return different values: h and x",
            ),
            ([node("Neg", ["x"], "t")], [node("Neg", ["x"], "e")], "its branch branch computes Neg"),
            ([node("Identity", ["x"], "t")], [node("Neg", ["x"], "e")], "its branch branch computes Neg"),
        ],
    )
    def test_other_branches_stay(self, then: list[Node], other: list[Node], reason: str) -> None:
        choice = if_node(branch(then, ["t"]), branch(other, ["e"]), "i")
        nodes = [node("Exp", ["x"], "h"), choice, node("Neg", ["i"], "y")]
        assert refused(inline_equal_branches, model(nodes, inputs=CONDITION)) == [reason]

    def test_branches_in_another_order_stay(self) -> None:
        then = branch([node("Identity", ["x"], "t1"), node("Identity", ["h"], "t2")], ["t1", "t2"])
        other = branch([node("Identity", ["h"], "e1"), node("Identity", ["x"], "e2")], ["e1", "e2"])
        nodes = [node("Exp", ["x"], "h"), if_node(then, other, "a", "b"), node("Sub", ["a", "b"], "y")]
        reasons = refused(inline_equal_branches, model(nodes, inputs=CONDITION))
        assert reasons == ["its branches return different values: h, x and x, h"]

    def test_values_of_their_own_stay_even_under_one_name(self) -> None:
        """The same name in two branches is two values."""
        then = branch([node("Identity", ["k"], "t")], ["t"], {"k": np.zeros(1, np.float32)})
        other = branch([node("Identity", ["k"], "e")], ["e"], {"k": np.ones(1, np.float32)})
        made = model([if_node(then, other, "i"), node("Add", ["x", "i"], "y")], inputs=CONDITION)
        assert refused(inline_equal_branches, made) == ["its branch branch has values of its own"]

    def test_one_that_makes_a_graph_output_stays(self) -> None:
        same = [branch([node("Identity", ["x"], name)], [name]) for name in "pq"]
        reasons = refused(inline_equal_branches, model([if_node(*same, "y")], inputs=CONDITION))
        assert reasons == ["it makes `y`, an output of the graph"]


class TestConstants:
    def test_moved(self) -> None:
        nodes = [
            node("Constant", [], "c", value=numpy_helper.from_array(np.float32(3))),
            node("Constant", [], "unread", value=numpy_helper.from_array(np.float32(4))),
            node("Add", ["x", "c"], "y"),
        ]
        made = model(nodes, {"unread too": np.zeros(1, np.float32)})
        assert applied(constants_to_initializers, made) == 2
        assert ops(made) == ["Add"]
        assert [item.name for item in made.graph.initializer] == ["c"]

    def test_those_that_only_branches_read_are_kept(self) -> None:
        then = branch([node("Add", ["x", "c"], "t")], ["t"])
        other = branch([node("Add", ["x", "stored"], "e")], ["e"])
        nodes = [node("Constant", [], "c", value=numpy_helper.from_array(np.float32(3))), if_node(then, other, "y")]
        for condition in (True, False):
            made = model(nodes, {"stored": np.ones(1, np.float32)}, inputs=CONDITION)
            assert applied(constants_to_initializers, made, {"x": X, "condition": np.array(condition)}) == 1
            assert {item.name for item in made.graph.initializer} == {"c", "stored"}

    def test_constants_inside_branches_stay(self) -> None:
        then, other = (
            branch([node("Constant", [], name, value=numpy_helper.from_array(np.float32(3)))], [name]) for name in "pq"
        )
        made = model([if_node(then, other, "i"), node("Add", ["x", "i"], "y")], inputs=CONDITION)
        assert refused(constants_to_initializers, made) == []

    def test_one_that_is_a_graph_output_stays(self) -> None:
        made = model([node("Constant", [], "y", value=numpy_helper.from_array(np.float32(3)))])
        assert refused(constants_to_initializers, made) == ["it makes `y`, an output of the graph"]

    def test_other_kinds_stay(self) -> None:
        made = model([node("Constant", [], "c", value_float=2.0), node("Add", ["x", "c"], "y")])
        assert refused(constants_to_initializers, made) == []


class TestDeadNodes:
    def test_removed_with_everything_before_them(self) -> None:
        nodes = [
            node("Exp", ["x"], "a"),
            node("Neg", ["a"], "b"),
            node("Split", ["x"], "p", "q", axis=1),
            node("Neg", ["p"], "y"),
            node("Exp", ["q"], "r"),
        ]
        made = model(nodes, inputs=[("x", FLOAT, ["a", 4])])
        assert applied(remove_dead_nodes, made, {"x": np.ones((2, 4), np.float32)}) == 3
        assert ops(made) == ["Split", "Neg"]  # one of its outputs is read

    @pytest.mark.parametrize("depth", [1, 2])
    def test_what_branches_read_is_alive(self, depth: int) -> None:
        then, other = branch([node("Neg", ["h"], "t")], ["t"]), branch([node("Exp", ["x"], "e")], ["e"])
        if depth == 2:
            then, other = branch([if_node(then, other, "deep")], ["deep"]), branch([node("Abs", ["x"], "s")], ["s"])
        made = model([node("Exp", ["x"], "h"), if_node(then, other, "y")], inputs=CONDITION)
        assert refused(remove_dead_nodes, made) == []

    def test_omitted_inputs_and_outputs_keep_nothing_alive(self) -> None:
        nodes = [
            node("MaxPool", ["x"], "m", "", kernel_shape=[1]),
            node("Clip", ["x", "", "high"], "y"),
        ]
        made = model(nodes, {"high": np.array(0.5, np.float32)}, inputs=[("x", FLOAT, ["a", "b", "c"])], rank=3)
        assert applied(remove_dead_nodes, made, {"x": X[None]}) == 1
        assert ops(made) == ["Clip"]


class TestOutputNames:
    def test_the_source_gets_the_name(self) -> None:
        then, other = branch([node("Neg", ["h"], "t")], ["t"]), branch([node("Exp", ["h"], "e")], ["e"])
        readers = [node("Neg", ["h"], "z"), if_node(then, other, "w")]
        nodes = [node("Exp", ["x"], "h"), node("Identity", ["h"], "y"), *readers]
        made = model(nodes, outputs=("y", "z", "w"), inputs=CONDITION)
        assert applied(name_outputs_at_source, made, {"x": X, "condition": np.array(True)}) == 1
        assert ops(made) == ["Exp", "Neg", "If"]
        assert list(made.graph.node[0].output) == ["y"]
        assert values_read(made.graph.node) == {"x", "y", "condition"}

    def test_two_names_for_one_value(self) -> None:
        nodes = [node("Exp", ["x"], "h"), node("Identity", ["h"], "y"), node("Identity", ["h"], "z")]
        made = model(nodes, outputs=("y", "z"))
        assert applied(name_outputs_at_source, made) == 1
        assert [(item.op_type, *item.input, *item.output) for item in made.graph.node] == [
            ("Exp", "x", "y"),
            ("Identity", "y", "z"),
        ]

    @pytest.mark.parametrize(
        ("nodes", "kept"),
        [
            ([node("Identity", ["x"], "y"), node("Exp", ["x"], "z")], "x"),  # an input keeps its name
            ([node("Identity", ["c"], "y"), node("Exp", ["x"], "z")], "c"),  # so does a weight
            ([node("Exp", ["x"], "z"), node("Identity", ["z"], "y")], "z"),  # and another output
            ([node("Identity", ["x"], "h"), node("Exp", ["h"], "y"), node("Neg", ["h"], "z")], None),  # no candidate
        ],
    )
    def test_others_stay(self, nodes: list[Node], kept: str | None) -> None:
        made = model(nodes, {"c": np.ones(1, np.float32)}, outputs=("y", "z"))
        reason = f"{kept} is an input, a weight or another output of the graph and keeps its name"
        assert refused(name_outputs_at_source, made) == ([] if kept is None else [reason])


class TestTogether:
    def graph(self) -> onnx.ModelProto:
        same = [branch([node("Identity", ["h"], name)], [name]) for name in "pq"]
        nodes = [
            node("Constant", [], "one", value=numpy_helper.from_array(np.ones(1, np.float32))),
            node("Reshape", ["x", "shape"], "r"),
            node("Mul", ["r", "one"], "h"),
            node("Shape", ["x"], "size"),
            node("Size", ["size"], "count"),
            node("Equal", ["count", "count"], "condition"),
            if_node(*same, "i"),
            node("Identity", ["i"], "j"),
            node("MatMul", ["j", "weight"], "k"),
            node("Identity", ["k"], "y"),
        ]
        return model(nodes, {"shape": np.array([3, 2]), "weight": X.copy()})

    def test_all_of_them(self) -> None:
        made = self.graph()

        def all_of_them(item: onnx.ModelProto) -> Outcome:
            clean(item)
            return Outcome(1)

        assert applied(all_of_them, made) == 1
        assert ops(made) == ["Reshape", "MatMul"]
        assert [item.name for item in made.graph.initializer] == ["shape", "weight"]

    def test_a_second_time_changes_nothing(self) -> None:
        made = self.graph()
        clean(made)
        once = made.SerializeToString()
        clean(made)
        assert made.SerializeToString() == once


def test_reading_instead_reaches_every_depth() -> None:
    inner = if_node(branch([node("Neg", ["a"], "t")], ["t"]), branch([node("Exp", ["b"], "e")], ["e"]), "o")
    outer = if_node(branch([inner], ["o"]), branch([node("Abs", ["a"], "u")], ["u"]), "y")
    read_instead([outer], {"a": "A", "b": "B"})
    assert values_read([outer]) == {"condition", "A", "B"}

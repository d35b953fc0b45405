"""Tokens that are joined before they are split into heads: the same numbers, and the reasons of refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from kandinsky_export.graphs.rewrites.joined_tokens import join_tokens_before_heads
from kandinsky_runtime.engines.rewrites import Refusal
from tests.export.graphs.rewrites.test_precision_rewrites import model, ops, run

HEADS = np.int64([0, 0, 2, 3])
PERM = [0, 2, 1, 3]


def joined(
    axis: int = 2, perm: list[int] = PERM, first: Any = HEADS, second: Any = HEADS, split: str = "Reshape"
) -> onnx.ModelProto:
    """Two parts of tokens, each split into heads, joined; a sum over the heads is the output."""
    second_split = helper.make_node(split, ["b", "second"] if split == "Reshape" else ["b", "four"], ["bs"])
    nodes = [
        helper.make_node("Reshape", ["a", "first"], ["as"]),
        helper.make_node("Transpose", ["as"], ["at"], perm=PERM),
        second_split,
        helper.make_node("Transpose", ["bs"], ["bt"], perm=perm),
        helper.make_node("Concat", ["at", "bt"], ["j"], axis=axis),
        helper.make_node("ReduceSum", ["j", "axes"], ["y"], keepdims=0),
    ]
    constants = {"first": first, "second": second, "axes": np.int64([1])}
    if split != "Reshape":
        constants |= {"four": np.int64([3])}
        del constants["second"]
    return model(nodes, constants, inputs=("a", "b"))


def test_the_numbers_stay() -> None:
    rng = np.random.default_rng(5)
    made = joined()
    feeds = {
        "a": rng.standard_normal((2, 4, 6)).astype(np.float32),
        "b": rng.standard_normal((2, 7, 6)).astype(np.float32),
    }
    want = run(made, **feeds)
    assert join_tokens_before_heads(made).rewritten == 1
    assert ops(made) == ["Concat", "Reshape", "Transpose", "ReduceSum"]
    np.testing.assert_array_equal(run(made, **feeds), want)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"axis": 3}, "it joins along the axis 3; expected 2"),
        ({"perm": [0, 1, 2, 3]}, "bt is transposed by [0, 1, 2, 3]; expected [0, 2, 1, 3]"),
        ({"split": "Unsqueeze"}, "bt is not split into heads by a Reshape to a constant shape"),
        (
            {"first": np.int64([0, -1, 2, 3]), "second": np.int64([0, -1, 2, 3])},
            "its parts are reshaped to [0, -1, 2, 3]; expected [0, 0, heads, width]",
        ),
        (
            {"second": np.int64([0, -1, 2, 3])},
            "its parts are reshaped to [[0, 0, 2, 3], [0, -1, 2, 3]]; expected one shape",
        ),
    ],
)
def test_refusals(changes: dict[str, Any], reason: str) -> None:
    made = joined(**changes)
    before = made.SerializeToString()
    outcome = join_tokens_before_heads(made)
    assert outcome.rewritten == 0
    assert outcome.refusals == [Refusal("Concat.4", reason)]
    assert made.SerializeToString() == before


def test_a_concat_of_other_values_is_no_candidate() -> None:
    made = model([helper.make_node("Concat", ["a", "b"], ["y"], axis=1)], inputs=("a", "b"))
    outcome = join_tokens_before_heads(made)
    assert (outcome.rewritten, outcome.refusals) == (0, [])

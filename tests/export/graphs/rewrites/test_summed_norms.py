"""Norms of small groups as sums in float32: the same numbers, also where fp16 could not hold the squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from kandinsky_export.graphs.rewrites.element_types import lower_element_types
from kandinsky_export.graphs.rewrites.summed_norms import LARGEST_GROUP, is_sum, norm_of_sums, sum_small_norms
from kandinsky_export.precision.lowering import kept_by_rule
from kandinsky_runtime.engines.rewrites import Refusal
from tests.export.graphs.rewrites.test_precision_rewrites import model, ops, run
from tests.tolerances import FUSED_NORM, NORM_IN_FP16

EPSILON = 1e-5
SUMS = ["ReduceMean", "Sub", "Mul", "ReduceMean", "Add", "Sqrt", "Div"]


def norm(scale: float = 1, bias: float = 0) -> onnx.ModelProto:
    node = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["n"], epsilon=EPSILON, name="norm")
    return model(
        [node, helper.make_node("Identity", ["n"], ["y"])],
        {"scale": np.full(2, scale, np.float32), "bias": np.full(2, bias, np.float32)},
    )


def large_activations() -> np.ndarray:
    """Groups of the largest size, of mean 50 and deviation 30: squares and sums far beyond fp16's 65504."""
    values = 50 + 30 * np.random.default_rng(6).standard_normal((2, 2, LARGEST_GROUP))
    return values.astype(np.float16).astype(np.float32)


def normalised(x: np.ndarray) -> np.ndarray:
    """In float64."""
    wide = x.astype(np.float64)
    difference = wide - wide.mean(axis=2, keepdims=True)
    result: np.ndarray = difference / np.sqrt(np.square(difference).mean(axis=2, keepdims=True) + EPSILON)
    return result


def test_the_numbers_stay() -> None:
    made = norm()
    x = np.random.default_rng(6).standard_normal((2, 2, 300)).astype(np.float32)
    want = run(made, x=x)
    assert sum_small_norms(made, {"x": x.shape}).rewritten == 1
    assert ops(made) == [*SUMS, "Identity"]
    np.testing.assert_allclose(run(made, x=x), want, rtol=0, atol=FUSED_NORM)


@pytest.mark.parametrize("as_sums", [False, True])
def test_large_activations_in_fp16(as_sums: bool) -> None:
    """As sums the statistics are in float32 in the graph; a norm's are in every engine, here in ONNX Runtime."""
    made, x = norm(), large_activations()
    if as_sums:
        assert sum_small_norms(made, {"x": x.shape}).rewritten == 1
    kept = kept_by_rule(made)
    assert len(kept) == (len(SUMS) if as_sums else 0)
    lower_element_types(made, "fp16", kept=kept)
    np.testing.assert_allclose(run(made, x=x), normalised(x), rtol=0, atol=NORM_IN_FP16)


def test_what_the_sums_normalise() -> None:
    made = norm()
    sum_small_norms(made, {"x": (2, 2, 300)})
    made_by = {name: node for node in made.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    found = {node.op_type: norm_of_sums(node, made_by, constants) for node in made.graph.node}
    assert found.pop("Div") == ("x", pytest.approx(EPSILON))
    assert set(found.values()) == {None}
    assert [is_sum(node) for node in made.graph.node] == [True] * len(SUMS) + [False]


@pytest.mark.parametrize(
    ("changes", "shape", "reason"),
    [
        ({}, (2, 2, LARGEST_GROUP + 1), "its groups have 25001 elements; expected 25000 or less"),
        ({"scale": 2}, (2, 2, 9), "scale is not 1 everywhere"),
        ({"bias": 1}, (2, 2, 9), "bias is not 0 everywhere"),
    ],
)
def test_refusals(changes: dict[str, Any], shape: tuple[int, ...], reason: str) -> None:
    made = norm(**changes)
    before = made.SerializeToString()
    outcome = sum_small_norms(made, {"x": shape})
    assert outcome.refusals == [Refusal("norm", reason)]
    assert made.SerializeToString() == before

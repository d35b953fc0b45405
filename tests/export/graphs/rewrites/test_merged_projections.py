"""Products for queries, keys and values in one: the same numbers, and the reasons why others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kandinsky_export.graphs.rewrites.merged_projections import merge_projections, parts_of
from kandinsky_runtime.engines.rewrites import Refusal
from tests.export.graphs.rewrites.test_precision_rewrites import model, ops, run
from tests.tolerances import REWRITTEN_RELATIVE

Arrays = dict[str, npt.NDArray[Any]]
RNG = np.random.default_rng(4)
WIDTH = 6


def weights_of(widths: tuple[int, ...] = (WIDTH,) * 3) -> Arrays:
    made: Arrays = {}
    for name, width in zip("qkv", widths, strict=False):
        made[f"{name}.weight"] = RNG.standard_normal((8, width)).astype(np.float32)
        made[f"{name}.bias"] = RNG.standard_normal(width).astype(np.float32)
    return made


def projections(weights: Arrays, outputs: tuple[str, ...] = ("y",), **changes: str) -> onnx.ModelProto:
    """Products of x with each matrix and the sums with their biases, joined to y; the weights are in another file."""
    names = [name.partition(".")[0] for name in weights if name.endswith("weight")]
    nodes = []
    for name in names:
        nodes.append(helper.make_node("MatMul", ["x", changes.get(f"{name}.weight", f"{name}.weight")], [f"{name}p"]))
        nodes.append(helper.make_node("Add", [f"{name}p", changes.get(f"{name}.bias", f"{name}.bias")], [name]))
    nodes.append(helper.make_node("Concat", [changes.get(name, name) for name in names], ["y"], axis=2))
    made = model(nodes, weights, outputs=outputs)
    for tensor in made.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
    return made


def with_values(made: onnx.ModelProto, weights: Arrays) -> onnx.ModelProto:
    """The graph with the values of its weights in it."""
    filled = onnx.ModelProto.FromString(made.SerializeToString())
    for tensor in filled.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            values = np.concatenate([weights[part] for part in parts_of(tensor.name)], axis=-1)
            assert list(tensor.dims) == list(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return filled


def test_three_products_become_one() -> None:
    weights = weights_of()
    made = projections(weights)
    x = RNG.standard_normal((2, 5, 8)).astype(np.float32)
    want = run(with_values(made, weights), x=x)
    assert merge_projections(made).rewritten == 1
    assert ops(made) == ["MatMul", "Add", "Split", "Concat"]
    assert {tensor.name for tensor in made.graph.initializer if tensor.data_location == TensorProto.EXTERNAL} == {
        "q.weight+k.weight+v.weight",
        "q.bias+k.bias+v.bias",
    }
    np.testing.assert_allclose(run(with_values(made, weights), x=x), want, rtol=REWRITTEN_RELATIVE)


def test_a_name_that_is_one_weights() -> None:
    assert parts_of("q.weight") == ["q.weight"]


def test_one_product_is_no_candidate() -> None:
    made = projections(weights_of((WIDTH,)))
    before = made.SerializeToString()
    outcome = merge_projections(made)
    assert (outcome.rewritten, outcome.refusals, made.SerializeToString()) == (0, [], before)


@pytest.mark.parametrize(
    ("widths", "changes", "outputs", "reason"),
    [
        ((WIDTH,) * 2, {}, ("y",), "2 products read x; expected 3"),
        ((WIDTH, WIDTH, 4), {}, ("y",), "the products of x have [6, 6, 4] columns; expected one number"),
        ((WIDTH,) * 3, {"k.weight": "q.weight"}, ("y",), "its weight q.weight is read by other nodes, too"),
        ((WIDTH,) * 3, {"k.bias": "q.bias"}, ("y",), "its bias q.bias is read by other nodes, too"),
        ((WIDTH,) * 3, {"k.bias": "x"}, ("y",), "what is added to it is not one weight of the shape [6]"),
        ((WIDTH,) * 3, {"q": "qp"}, ("y",), "it is not read by one Add alone"),
        ((WIDTH,) * 3, {}, ("y", "q"), "it makes `q`, an output of the graph"),
    ],
)
def test_refusals(widths: tuple[int, ...], changes: dict[str, str], outputs: tuple[str, ...], reason: str) -> None:
    made = projections(weights_of(widths), outputs, **changes)
    before = made.SerializeToString()
    outcome = merge_projections(made)
    assert outcome.rewritten == 0
    assert outcome.refusals == [Refusal("MatMul.0", reason)]
    assert made.SerializeToString() == before

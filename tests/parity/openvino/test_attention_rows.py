"""Rows of a picture read without a transposition, compared with one for each matrix product, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino.attention_rows import read_rows_in_place
from tests.parity.openvino.models import SHAPES, computed, feeds_of, kinds, of_component, reasons
from tests.tolerances import SAME_ARITHMETIC

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only if OpenVINO is installed)

RNG = np.random.default_rng(0)


def products(shape: list[int], flat: list[int], *, transposed: bool = True, count: int = 3) -> Any:
    """Matrix products of the rows of a picture, as the exporter writes them."""
    source = ops.parameter(shape, np.float32, name="x")
    rows = ops.reshape(source, ops.constant(np.array(flat)), False)
    inputs = flat[-2] if transposed else flat[-1]
    weights = [ops.constant(RNG.standard_normal((inputs, 5), np.float32)) for _ in range(count)]
    return openvino.Model([ops.result(ops.matmul(rows, item, transposed, False)) for item in weights], [source], "rows")


@pytest.mark.parametrize("component", SHAPES)
def test_whole_graphs_compute_what_they_did(component: str, case_bundle: Callable[[str], Path]) -> None:
    bundle = case_bundle("four_blocks")
    before, after = (of_component(bundle, component) for _ in range(2))
    feeds = feeds_of(before)
    attentions = kinds(before).count("Softmax")
    assert read_rows_in_place(after).rewritten == 3 * attentions > 0
    assert kinds(after).count("Transpose") == kinds(before).count("Transpose") + attentions
    np.testing.assert_allclose(computed(after, feeds), computed(before, feeds), rtol=0, atol=SAME_ARITHMETIC)


def test_one_transposition_is_used_for_every_product() -> None:
    model = products([2, 6, 3, 4], [2, 6, 12])
    after = model.clone()
    assert read_rows_in_place(after).rewritten == 3
    assert kinds(after).count("Transpose") == 1
    feeds = feeds_of(model)
    compiled = [openvino.compile_model(item, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for item in (model, after)]
    for want, got in zip(*(item(feeds).values() for item in compiled), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=SAME_ARITHMETIC)


def test_products_that_are_not_transposed_are_no_candidates() -> None:
    outcome = read_rows_in_place(products([2, 6, 3, 4], [2, 12, 6], transposed=False))
    assert (outcome.rewritten, outcome.refusals) == (0, [])


@pytest.mark.parametrize(
    ("shape", "flat", "reason"),
    [
        pytest.param(
            [2, 6, 3, 4],
            [2, 12, 6],
            "the picture [2, 6, 3, 4] is reshaped to [2, 12, 6]; expected [2, 6, 12]",
            id="cells and channels mixed",
        ),
        pytest.param(
            [2, 6, 12],
            [2, 6, 12],
            "its rows are reshaped from [2, 6, 12], which is not a picture of 4 dimensions",
            id="not a picture",
        ),
        pytest.param(
            [2, 6, 3, 4],
            [1, 12, 12],
            "the picture [2, 6, 3, 4] is reshaped to [1, 12, 12]; expected [2, 6, 12]",
            id="pictures mixed",
        ),
    ],
)
def test_other_products_are_left_unchanged(shape: list[int], flat: list[int], reason: str) -> None:
    model = products(shape, flat)
    before = kinds(model)
    outcome = read_rows_in_place(model)
    assert (outcome.rewritten, len(outcome.refusals), reasons(outcome)) == (0, 3, {reason})
    assert kinds(model) == before


def test_rows_from_another_node() -> None:
    source = ops.parameter([6, 4], np.float32, name="x")
    product = ops.matmul(ops.relu(source), ops.constant(np.ones((6, 5), np.float32)), True, False)
    outcome = read_rows_in_place(openvino.Model([ops.result(product)], [source], "rows"))
    assert reasons(outcome) == {"its rows come from a Relu, not from a Reshape"}
    assert outcome.refusals[0].node == product.get_friendly_name()

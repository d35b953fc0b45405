"""Rows of a picture read as they lie in memory, against turning it over for each matrix product, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino.attention_rows import read_rows_in_place
from tests.parity.openvino_models import SHAPES, computed, feeds_of, kinds, of_component

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only where OpenVINO is)

RNG = np.random.default_rng(0)


def products(shape: list[int], flat: list[int], *, turned: bool = True, count: int = 3) -> Any:
    """Matrix products of the rows of a picture, as the exporter writes them."""
    source = ops.parameter(shape, np.float32, name="x")
    rows = ops.reshape(source, ops.constant(np.array(flat)), False)
    inputs = flat[-2] if turned else flat[-1]
    weights = [ops.constant(RNG.standard_normal((inputs, 5), np.float32)) for _ in range(count)]
    return openvino.Model([ops.result(ops.matmul(rows, item, turned, False)) for item in weights], [source], "rows")


@pytest.mark.parametrize("component", SHAPES)
def test_whole_graphs_compute_what_they_did(component: str, case_bundle: Callable[[str], Path]) -> None:
    bundle = case_bundle("four_blocks")
    before, after = (of_component(bundle, component) for _ in range(2))
    feeds = feeds_of(before)
    attentions = kinds(before).count("Softmax")
    assert read_rows_in_place(after) == 3 * attentions > 0
    assert kinds(after).count("Transpose") == kinds(before).count("Transpose") + attentions
    np.testing.assert_allclose(computed(after, feeds), computed(before, feeds), rtol=0, atol=1e-6)


def test_one_turn_serves_every_product() -> None:
    model = products([2, 6, 3, 4], [2, 6, 12])
    after = model.clone()
    assert read_rows_in_place(after) == 3
    assert kinds(after).count("Transpose") == 1
    feeds = feeds_of(model)
    compiled = [openvino.compile_model(item, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for item in (model, after)]
    for want, got in zip(*(item(feeds).values() for item in compiled), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(products([2, 6, 3, 4], [2, 12, 6], turned=False), id="not turned over"),
        pytest.param(products([2, 6, 3, 4], [2, 12, 6]), id="cells and channels mixed"),
        pytest.param(products([2, 6, 12], [2, 6, 12]), id="no picture"),
        pytest.param(products([2, 6, 3, 4], [1, 12, 12]), id="pictures mixed"),
    ],
)
def test_other_products_are_left_alone(model: Any) -> None:
    assert read_rows_in_place(model) == 0

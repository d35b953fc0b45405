"""Weights stored in bf16, compared with OpenVINO's own rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino.nodes import fold_constants, stored_weights
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.engines.openvino.rounded_weights import round_weights, upper_halves
from tests.parity.openvino.models import SHAPES, computed, feeds_of, kinds, of_component

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only if OpenVINO is installed)

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")


def weighted(weights: np.ndarray) -> Any:
    source = ops.parameter([1, weights.shape[1], 5, 5], np.float32, name="x")
    result = ops.convolution(source, ops.constant(weights), [1, 1], [0, 0], [0, 0], [1, 1])
    return openvino.Model([ops.result(result)], [source], "weighted")


def test_rounding_is_openvinos() -> None:
    """Every sign and exponent except those of NaN and infinity, with mantissas around each tie."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    upper = upper[(upper >> 7) & 0xFF != 0xFF] << 16
    bits = np.concatenate([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).astype(np.uint32)
    values = bits.view(np.float32)
    source = ops.parameter([len(values)], np.float32, name="x")
    model = openvino.Model([ops.result(ops.convert(source, "bf16"))], [source], "convert")
    (want,) = openvino.compile_model(model, "CPU")({0: values}).values()
    assert want.dtype.itemsize == 2
    normal = (bits >> 23) & 0xFF != 0  # the CPU rounds smaller numbers to zero
    np.testing.assert_array_equal(upper_halves(values)[normal], want.view(np.uint16)[normal])


@pytest.mark.parametrize("component", sorted(SHAPES))
def test_all_weights_are_stored_in_half_the_bytes(component: str, case_bundle: Callable[[str], Path]) -> None:
    model = of_component(case_bundle("four_blocks"), component)
    before = {node.get_friendly_name(): stored_weights(node) for node in weighted_nodes(model)}
    values = {name: np.array(item.data) for name, item in before.items()}
    assert round_weights(model) == len(before) > 10
    for node in weighted_nodes(model):
        stored = stored_weights(node)
        assert stored.get_element_type() == openvino.Type.bf16
        # at most half a step of 8 bits
        widened = (np.asarray(stored.get_tensor_view().data).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        want = values[node.get_friendly_name()]
        assert np.all(np.abs(widened - want) <= np.abs(want) * 2.0**-8)


def weighted_nodes(model: Any) -> list[Any]:
    return [
        node
        for node in model.get_ordered_ops()
        if node.get_type_name() in ("Convolution", "MatMul") and stored_weights(node) is not None
    ]


@needs_bf16
@pytest.mark.parametrize("component", sorted(SHAPES))
def test_bf16_computes_the_same_bits(component: str, case_bundle: Callable[[str], Path]) -> None:
    model = of_component(case_bundle("four_blocks"), component)
    after = model.clone()
    round_weights(after)
    feeds = feeds_of(model)
    np.testing.assert_array_equal(computed(after, feeds, "bf16"), computed(model, feeds, "bf16"))


def test_only_the_wanted_weights_are_rounded(case_bundle: Callable[[str], Path]) -> None:
    model = of_component(case_bundle("four_blocks"), "unet")
    products = sum(node.get_type_name() == "MatMul" for node in weighted_nodes(model))
    assert round_weights(model, lambda node: node.get_type_name() == "MatMul") == products > 0
    assert round_weights(model, lambda node: node.get_type_name() == "MatMul") == 0, "none is left"
    assert round_weights(model) > 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_stay(value: float) -> None:
    weights = np.ones((2, 3, 1, 1), np.float32)
    weights[1, 1] = value
    assert round_weights(weighted(weights)) == 0


def test_weights_that_are_computed_stay() -> None:
    one, other = (ops.parameter([4, 4], np.float32, name=name) for name in "xy")
    model = openvino.Model([ops.result(ops.matmul(one, other, False, False))], [one, other], "product")
    assert round_weights(model) == 0


def test_folding_does_not_widen_them() -> None:
    model = weighted(np.ones((2, 3, 1, 1), np.float32))
    round_weights(model)
    shape = ops.concat([ops.constant(np.array([1])), ops.constant(np.array([-1]))], 0)
    (result,) = model.get_results()
    model = openvino.Model(
        [ops.result(ops.reshape(result.input_value(0), shape, False))], model.get_parameters(), "reshaped"
    )
    fold_constants(model)
    assert "Concat" not in kinds(model)
    assert kinds(model).count("Convert") == 1
    (node,) = weighted_nodes(model)
    assert stored_weights(node).get_element_type() == openvino.Type.bf16
    assert "DisableConstantFolding_0" not in node.input_value(1).get_node().get_rt_info()

"""Convolutions in two parts by their output channels, compared with whole ones, in OpenVINO."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino import split_convolutions as rewrite
from kandinsky_runtime.engines.openvino.nodes import stored_weights
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.engines.openvino.rounded_weights import round_weights
from kandinsky_runtime.engines.openvino.split_convolutions import split_badly_cut_convolutions
from tests.parity.openvino.models import computed, feeds_of, kinds, of_component, reasons
from tests.tolerances import REWRITTEN

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only if OpenVINO is installed)

RNG = np.random.default_rng(0)


def convolution(
    inputs: int = 576,
    outputs: int = 144,
    *,
    kernel: int = 3,
    side: int = 17,
    bias: tuple[int, ...] | None = None,
    strides: int = 1,
    pads: tuple[int, int] = (1, 1),
) -> Any:
    source = ops.parameter([1, inputs, side, side], np.float32, name="x")
    weights = RNG.standard_normal((outputs, inputs, kernel, kernel), np.float32) / np.float32(np.sqrt(inputs) * kernel)
    begin, end = pads
    result = ops.convolution(source, ops.constant(weights), [strides] * 2, [begin] * 2, [end] * 2, [1, 1])
    if bias is not None:
        result = ops.add(result, ops.constant(RNG.standard_normal(bias, np.float32)))
    return openvino.Model([ops.result(result)], [source], "convolution")


@pytest.mark.parametrize("outputs", [144, 192, 384, 576])
@pytest.mark.parametrize("with_bias", [False, True])
def test_parts_compute_what_the_whole_did(outputs: int, with_bias: bool) -> None:
    model = convolution(outputs=outputs, bias=(1, outputs, 1, 1) if with_bias else None)
    after = model.clone()
    assert split_badly_cut_convolutions(after).rewritten == 1
    parts = [node.get_output_shape(0)[1] for node in after.get_ordered_ops() if node.get_type_name() == "Convolution"]
    assert sum(parts) == outputs
    assert all(part % rewrite.BAD_BLOCK for part in parts)
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), rtol=0, atol=REWRITTEN)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"kernel": 2, "pads": (1, 0)}, id="2x2, padded on one side"),
        pytest.param({"strides": 2}, id="stride"),
        pytest.param({"bias": (1, 144, 17, 17)}, id="a bias of cells"),
    ],
)
def test_other_forms(other: dict[str, Any]) -> None:
    model = convolution(**other)
    after = model.clone()
    assert split_badly_cut_convolutions(after).rewritten == 1
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), rtol=0, atol=REWRITTEN)


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
def test_bf16_rounds_no_worse() -> None:
    model = convolution(768, 384, bias=(1, 384, 1, 1))
    after = model.clone()
    outcome = split_badly_cut_convolutions(after)
    feeds = feeds_of(model)
    want = computed(model, feeds)
    errors = [np.sqrt(np.square(computed(item, feeds, "bf16") - want).mean()) for item in (model, after)]
    print(f"bf16: {errors[0]:.2e} whole, {errors[1]:.2e} in parts")
    assert errors[1] <= 1.01 * errors[0]
    assert len(outcome.keep_alive) == 1


@pytest.mark.parametrize("stored", ["bf16", "f16"])
def test_weights_stored_in_fewer_bits_stay_that_way(stored: str) -> None:
    model = convolution(bias=(1, 144, 1, 1))
    (node,) = (node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution")
    if stored == "bf16":
        assert round_weights(model) == 1
    else:
        half = ops.constant(node.input_value(1).get_node().data.astype(np.float16))
        node.input(1).replace_source_output(ops.convert(half, "f32").output(0))
        model.validate_nodes_and_infer_types()
    after = model.clone()
    (whole,) = split_badly_cut_convolutions(after).keep_alive
    parts = [stored_weights(item) for item in after.get_ordered_ops() if item.get_type_name() == "Convolution"]
    assert len(parts) == 2
    assert {part.get_element_type().to_string() for part in (whole, *parts)} == {stored}
    assert sum(part.get_byte_size() for part in parts) == whole.get_byte_size()
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), rtol=0, atol=REWRITTEN)


def test_parts_take_no_memory_of_their_own() -> None:
    model = convolution()
    (whole,) = split_badly_cut_convolutions(model).keep_alive
    parts = [
        node.input_value(1).get_node() for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"
    ]
    start, size = whole.data.ctypes.data, whole.data.nbytes
    assert [part.data.ctypes.data - start for part in parts] == [0, parts[0].data.nbytes]
    assert sum(part.data.nbytes for part in parts) == size


def test_compiled_graph_outlives_the_model() -> None:
    model = convolution()
    feeds = feeds_of(model)
    want = computed(model, feeds)
    outcome = split_badly_cut_convolutions(model)
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    del model
    gc.collect()
    (got,) = compiled(feeds).values()
    np.testing.assert_allclose(got, want, rtol=0, atol=REWRITTEN)
    del outcome


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"kernel": 1, "pads": (0, 0)}, "its kernel has a single cell"),
        ({"inputs": 575}, "it has 575 input channels; expected 576 to 1024"),
        ({"inputs": 1025}, "it has 1025 input channels; expected 576 to 1024"),
        ({"outputs": 128}, "48 does not divide its 128 output channels"),
        ({"outputs": 96}, "it has 96 output channels; expected 128 to 768"),
        ({"outputs": 816}, "it has 816 output channels; expected 128 to 768"),
        ({"side": 16}, "its map has 256 cells; expected at least 289"),
    ],
    ids=lambda item: "" if isinstance(item, dict) else item,
)
def test_others_are_left_unchanged(other: dict[str, Any], reason: str) -> None:
    model = convolution(**other)
    before = kinds(model)
    outcome = split_badly_cut_convolutions(model)
    assert (outcome.rewritten, outcome.keep_alive, reasons(outcome)) == (0, [], {reason})
    assert kinds(model) == before


def test_a_kernel_of_one_dimension() -> None:
    source = ops.parameter([1, 576, 400], np.float32)
    weights = ops.constant(np.zeros((144, 576, 3), np.float32))
    result = ops.convolution(source, weights, [1], [1], [1], [1])
    outcome = split_badly_cut_convolutions(openvino.Model([ops.result(result)], [source], "one"))
    assert reasons(outcome) == {"its kernel has 1 dimensions; expected 2"}


def test_small_models_have_none(case_bundle: Callable[[str], Path]) -> None:
    model = of_component(case_bundle("four_blocks"), "unet")
    before = kinds(model)
    outcome = split_badly_cut_convolutions(model)
    assert (outcome.rewritten, outcome.keep_alive) == (0, [])
    assert len(outcome.refusals) == before.count("Convolution")
    assert kinds(model) == before

"""Convolutions before the doubling of a map, compared with those after it, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino import doubled_convolutions as rewrite
from kandinsky_runtime.engines.openvino.doubled_convolutions import by_parity, convolve_before_doubling
from kandinsky_runtime.engines.openvino.processor import has_bf16
from tests.parity.openvino.models import computed, feeds_of, kinds, of_component, reasons
from tests.tolerances import REWRITTEN, REWRITTEN_KERNEL

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only if OpenVINO is installed)

LEAST_CELLS = rewrite.LEAST_CELLS
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "LEAST_CELLS", 1)


def doubled(
    shape: list[int],
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    pad: int = 1,
    times: int = 2,
    mode: str = "nearest",
    coordinates: str = "asymmetric",
    nearest: str = "floor",
    bias: np.ndarray | None = None,
    read_twice: bool = False,
    followed: bool = False,
) -> Any:
    """A convolution of an enlarged map, as the exporter writes it."""
    source = ops.parameter(shape, np.float32, name="x")
    large = ops.interpolate(
        source,
        np.array([1, 1, times, times], np.float32),
        mode,
        "scales",
        coordinate_transformation_mode=coordinates,
        nearest_mode=nearest,
    )
    weights = RNG.standard_normal((outputs, shape[1], kernel, kernel), np.float32)
    result = ops.convolution(large, ops.constant(weights), [stride] * 2, [pad] * 2, [pad] * 2, [1, 1])
    if bias is not None:
        result = ops.add(result, ops.constant(bias))
    if followed:
        same = ops.constant(np.eye(outputs, dtype=np.float32)[:, :, None, None])
        result = ops.convolution(result, same, [1, 1], [0, 0], [0, 0], [1, 1])
    results = [ops.result(result)]
    if read_twice:
        results.append(ops.result(ops.relu(large)))
    return openvino.Model(results, [source], "doubled")


@pytest.mark.parametrize(("component", "count"), [("unet", 3), ("movq_decoder", 3), ("movq_encoder", 0)])
def test_whole_graphs_compute_what_they_did(component: str, count: int, case_bundle: Callable[[str], Path]) -> None:
    bundle = case_bundle("four_blocks")
    before, after = (of_component(bundle, component) for _ in range(2))
    feeds = feeds_of(before)
    assert convolve_before_doubling(after).rewritten == count
    assert kinds(after).count("DepthToSpace") == count
    assert np.abs(computed(after, feeds) - computed(before, feeds)).max() <= REWRITTEN


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7), (16, 8)])
@pytest.mark.parametrize("channels", [(1, 1), (3, 8), (32, 16)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_convolution(size: tuple[int, int], channels: tuple[int, int], with_bias: bool) -> None:
    inputs, outputs = channels
    model = doubled(
        [2, inputs, *size], outputs, bias=RNG.standard_normal((1, outputs, 1, 1), np.float32) if with_bias else None
    )
    after = model.clone()
    assert convolve_before_doubling(after).rewritten == 1
    assert "Interpolate" not in kinds(after)
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), rtol=0, atol=REWRITTEN)


def test_small_maps_are_left_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "LEAST_CELLS", LEAST_CELLS)
    outcome = convolve_before_doubling(doubled([1, 1, LEAST_CELLS - 1, 1], 1))
    assert (outcome.rewritten, reasons(outcome)) == (0, {"the map has 255 cells; at least 256 are worth it"})
    assert convolve_before_doubling(doubled([1, 1, LEAST_CELLS, 1], 1)).rewritten == 1


def test_kernels_of_parities_have_the_same_sum() -> None:
    weights = RNG.standard_normal((4, 5, 3, 3), np.float32)
    for kernel in by_parity(weights):
        np.testing.assert_allclose(kernel.sum(axis=(2, 3)), weights.sum(axis=(2, 3)), atol=REWRITTEN_KERNEL)
    assert [kernel.dtype for kernel in by_parity(weights.astype(np.float16))] == [np.float16] * 4


def test_a_map_with_another_reader_is_still_doubled_for_it() -> None:
    model = doubled([1, 4, 3, 5], 4, read_twice=True)
    after = model.clone()
    assert convolve_before_doubling(after).rewritten == 1
    feeds = feeds_of(model)
    compiled = [openvino.compile_model(item, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for item in (model, after)]
    for want, got in zip(*(item(feeds).values() for item in compiled), strict=True):
        np.testing.assert_allclose(got, want, atol=REWRITTEN)


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
def test_bf16_rounds_no_worse() -> None:
    """Between other convolutions, as in a graph: OpenVINO keeps the last one's result in float32."""
    model = doubled([2, 64, 16, 16], 64, followed=True)
    feeds = feeds_of(model)
    want = computed(model, feeds)
    after = model.clone()
    convolve_before_doubling(after)
    errors = [np.sqrt(np.square(computed(item, feeds, "bf16") - want).mean()) for item in (model, after)]
    print(f"bf16: {errors[0]:.2e} after the doubling, {errors[1]:.2e} before it")
    assert errors[1] <= 1.1 * errors[0]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"kernel": 5, "pad": 2}, "its kernel is 5x5; expected 3x3"),
        ({"kernel": 1, "pad": 0}, "its kernel is 1x1; expected 3x3"),
        ({"stride": 2}, "its strides are [2, 2]; expected [1, 1]"),
        ({"pad": 0}, "its pads_begin are [0, 0]; expected [1, 1]"),
        ({"times": 3}, "the map is enlarged to [1, 4, 9, 9]; expected [1, 4, 6, 6]"),
        ({"mode": "linear_onnx"}, "the map is enlarged with mode linear_onnx; expected nearest"),
        (
            {"coordinates": "half_pixel"},
            "the map is enlarged with coordinate_transformation_mode half_pixel; expected asymmetric",
        ),
        ({"nearest": "ceil"}, "the map is enlarged with nearest_mode ceil; expected floor"),
    ],
    ids=lambda item: "" if isinstance(item, dict) else item,
)
def test_other_convolutions_are_left_unchanged(other: dict[str, Any], reason: str) -> None:
    model = doubled([1, 4, 3, 3], 4, **other)
    after = model.clone()
    outcome = convolve_before_doubling(after)
    assert (outcome.rewritten, reasons(outcome)) == (0, {reason})
    assert kinds(after) == kinds(model)


def test_a_bias_of_cells_is_added_afterwards() -> None:
    model = doubled([1, 4, 3, 3], 4, bias=np.ones((1, 1, 6, 6), np.float32))
    after = model.clone()
    assert convolve_before_doubling(after).rewritten == 1
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), atol=REWRITTEN)


def test_weights_that_are_not_a_constant() -> None:
    source, weights = ops.parameter([1, 4, 3, 3], np.float32), ops.parameter([4, 4, 3, 3], np.float32)
    large = ops.interpolate(source, np.array([1, 1, 2, 2], np.float32), "nearest", "scales")
    result = ops.convolution(large, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    outcome = convolve_before_doubling(openvino.Model([ops.result(result)], [source, weights], "doubled"))
    assert reasons(outcome) == {"its weights are not a constant"}
    assert outcome.refusals[0].node == result.get_friendly_name()


def test_convolutions_of_other_maps_are_no_candidates() -> None:
    source = ops.parameter([1, 4, 3, 3], np.float32)
    weights = ops.constant(np.ones((4, 4, 3, 3), np.float32))
    result = ops.convolution(source, weights, [1, 1], [1, 1], [1, 1], [1, 1])
    outcome = convolve_before_doubling(openvino.Model([ops.result(result)], [source], "plain"))
    assert (outcome.rewritten, outcome.refusals) == (0, [])

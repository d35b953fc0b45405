"""Convolutions before the doubling of a map, against those behind it, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino import doubled_convolutions as rewrite
from kandinsky_runtime.engines.openvino.doubled_convolutions import by_parity, convolve_before_doubling
from kandinsky_runtime.engines.openvino.processor import has_bf16
from tests.parity.openvino_models import computed, feeds_of, kinds, of_component

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only where OpenVINO is)

TOLERANCE = 1e-4
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
    assert convolve_before_doubling(after) == count
    assert kinds(after).count("DepthToSpace") == count
    assert np.abs(computed(after, feeds) - computed(before, feeds)).max() <= TOLERANCE


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 7), (16, 8)])
@pytest.mark.parametrize("channels", [(1, 1), (3, 8), (32, 16)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_convolution(size: tuple[int, int], channels: tuple[int, int], with_bias: bool) -> None:
    inputs, outputs = channels
    model = doubled(
        [2, inputs, *size], outputs, bias=RNG.standard_normal((1, outputs, 1, 1), np.float32) if with_bias else None
    )
    after = model.clone()
    assert convolve_before_doubling(after) == 1
    assert "Interpolate" not in kinds(after)
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), rtol=0, atol=TOLERANCE)


def test_small_maps_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "LEAST_CELLS", LEAST_CELLS)
    assert convolve_before_doubling(doubled([1, 1, LEAST_CELLS - 1, 1], 1)) == 0
    assert convolve_before_doubling(doubled([1, 1, LEAST_CELLS, 1], 1)) == 1


def test_kernels_of_parities_have_the_same_sum() -> None:
    weights = RNG.standard_normal((4, 5, 3, 3), np.float32)
    for kernel in by_parity(weights):
        np.testing.assert_allclose(kernel.sum(axis=(2, 3)), weights.sum(axis=(2, 3)), atol=1e-5)
    assert [kernel.dtype for kernel in by_parity(weights.astype(np.float16))] == [np.float16] * 4


def test_a_map_that_is_read_elsewhere_too_is_still_doubled_there() -> None:
    model = doubled([1, 4, 3, 5], 4, read_twice=True)
    after = model.clone()
    assert convolve_before_doubling(after) == 1
    feeds = feeds_of(model)
    compiled = [openvino.compile_model(item, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}) for item in (model, after)]
    for want, got in zip(*(item(feeds).values() for item in compiled), strict=True):
        np.testing.assert_allclose(got, want, atol=TOLERANCE)


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
def test_bf16_rounds_no_worse() -> None:
    """Between other convolutions, as in a graph: OpenVINO leaves the last one's result in float32."""
    model = doubled([2, 64, 16, 16], 64, followed=True)
    feeds = feeds_of(model)
    want = computed(model, feeds)
    after = model.clone()
    convolve_before_doubling(after)
    errors = [np.sqrt(np.square(computed(item, feeds, "bf16") - want).mean()) for item in (model, after)]
    print(f"bf16: {errors[0]:.2e} behind the doubling, {errors[1]:.2e} before it")
    assert errors[1] <= 1.1 * errors[0]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"kernel": 5, "pad": 2}, id="5x5"),
        pytest.param({"kernel": 1, "pad": 0}, id="1x1"),
        pytest.param({"stride": 2}, id="stride"),
        pytest.param({"pad": 0}, id="no padding"),
        pytest.param({"times": 3}, id="tripled"),
        pytest.param({"mode": "linear_onnx"}, id="linear"),
        pytest.param({"coordinates": "half_pixel"}, id="other cells"),
        pytest.param({"nearest": "ceil"}, id="rounded up"),
        pytest.param({"bias": np.ones((1, 1, 6, 6), np.float32)}, id="a bias of cells"),
    ],
)
def test_what_is_no_such_convolution_keeps_its_value(other: dict[str, Any]) -> None:
    model = doubled([1, 4, 3, 3], 4, **other)
    after = model.clone()
    assert convolve_before_doubling(after) == int("bias" in other)
    feeds = feeds_of(model)
    np.testing.assert_allclose(computed(after, feeds), computed(model, feeds), atol=TOLERANCE)

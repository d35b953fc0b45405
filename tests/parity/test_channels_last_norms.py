"""Group norms as sums over the picture, against the converter's, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino import channels_last_norms as rewrite
from kandinsky_runtime.engines.openvino.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.openvino.processor import has_bf16
from tests.parity.openvino_models import SHAPES, computed, feeds_of, kinds, of_component

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only where OpenVINO is)

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
TOLERANCE = 1e-4


def group_norm(
    shape: list[int],
    groups: int,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    *,
    axis: int = 2,
    inner: float = 1.0,
    read_twice: bool = False,
    between_convolutions: bool = False,
) -> Any:
    """A group norm as the converter writes it: over (N, G, C/G x H x W), between two reshapes."""
    source = ops.parameter(shape, np.float32, name="x")

    def copied(value: Any) -> Any:
        """OpenVINO leaves in float32 what no convolution or product reads or makes."""
        same = ops.constant(np.eye(shape[1], dtype=np.float32)[:, :, None, None])
        return ops.convolution(value, same, [1, 1], [0, 0], [0, 0], [1, 1]) if between_convolutions else value

    flat = ops.reshape(copied(source), ops.constant(np.array([shape[0], groups, -1])), False)
    normal = ops.mvn(flat, ops.constant(np.array([axis])), True, 1e-5, "inside_sqrt")
    normal = ops.add(ops.multiply(normal, np.full((1, groups, 1), inner, np.float32)), np.float32(0))
    result = ops.reshape(normal, ops.constant(np.array(shape)), False)
    if gamma is not None:
        result = ops.multiply(result, gamma.reshape(-1, 1, 1))
    if beta is not None:
        result = ops.add(result, beta.reshape(-1, 1, 1))
    results = [ops.result(copied(result))]
    if read_twice:
        results.append(ops.result(ops.relu(normal)))
    return openvino.Model(results, [source], "norm")


@pytest.mark.parametrize("component", SHAPES)
def test_whole_graphs_compute_what_they_did(component: str, case_bundle: Callable[[str], Path]) -> None:
    bundle = case_bundle("four_blocks")
    before, after = (of_component(bundle, component) for _ in range(2))
    feeds = feeds_of(before)
    norms = [node.input_value(0).get_node() for node in before.get_ordered_ops() if node.get_type_name() == "MVN"]
    of_pictures = [node for node in norms if node.get_type_name() == "Reshape" and len(node.get_input_shape(0)) == 4]
    assert keep_channels_last(after) == len(of_pictures) > 0
    assert np.abs(computed(after, feeds) - computed(before, feeds)).max() <= TOLERANCE


@pytest.mark.parametrize(("channels", "groups"), [(6, 3), (32, 32), (64, 2), (300, 1)])
@pytest.mark.parametrize("factors", [(), ("gamma",), ("gamma", "beta")])
def test_group_norm(channels: int, groups: int, factors: tuple[str, ...]) -> None:
    rng = np.random.default_rng(channels)
    given = {name: rng.standard_normal(channels, np.float32) for name in factors}
    shape = [2, channels, 5, 7]
    before, after = (group_norm(shape, groups, **given) for _ in range(2))
    assert keep_channels_last(after) == 1
    assert "MVN" not in kinds(after)
    feeds = {"x": rng.standard_normal(shape, np.float32) * 3 + 1}
    assert np.abs(computed(after, feeds) - computed(before, feeds)).max() <= TOLERANCE


@pytest.mark.parametrize("side", [4, 96])
@pytest.mark.parametrize("value", [0, 7])
def test_flat_picture_comes_out_as_beta(value: float, side: int) -> None:
    """To the bit, where float32 holds the sums exactly."""
    beta = np.arange(8, dtype=np.float32)
    model = group_norm([1, 8, side, side], 2, np.ones(8, np.float32), beta)
    assert keep_channels_last(model) == 1
    got = computed(model, {"x": np.full((1, 8, side, side), value, np.float32)})
    assert np.array_equal(got, np.broadcast_to(beta[:, None, None], got.shape))


@pytest.mark.parametrize("side", [4, 96])
@pytest.mark.parametrize("value", [7.3, -1234.5])
def test_variance_that_rounding_takes_below_zero(value: float, side: int) -> None:
    """What the mean of a flat picture is rounded by is magnified by 1 / √ε at most."""
    model = group_norm([1, 8, side, side], 2)
    assert keep_channels_last(model) == 1
    got = computed(model, {"x": np.full((1, 8, side, side), value, np.float32)})
    rounding = abs(value) * np.finfo(np.float32).eps * side
    assert np.abs(got).max() <= 1e-6 + rounding / np.sqrt(1e-5)


@needs_bf16
@pytest.mark.parametrize("mean", [0, 4, 32])
def test_means_far_from_zero_cost_nothing_more(mean: float) -> None:
    """Against the converter's norm, whose sums and factors are in float32: both get the same picture, in bf16.

    Rounding factor and shift as well costs 1.15 times the error, what σ² loses at a mean of 32 deviations brings it to
    1.35. With the sums in bf16 the variance would be lost altogether there.
    """
    shape = [2, 64, 32, 32]
    rng = np.random.default_rng(0)
    gamma, beta = rng.standard_normal((2, 64), np.float32)
    values = rng.standard_normal(shape, np.float32) + np.float32(mean)
    feeds = {"x": (values.view(np.uint32) & 0xFFFF0000).view(np.float32)}
    before, after = (group_norm(shape, 8, gamma, beta, between_convolutions=True) for _ in range(2))
    want = computed(before, feeds)
    keep_channels_last(after)
    errors = [np.sqrt(np.square(computed(model, feeds, "bf16") - want).mean()) for model in (before, after)]
    print(f"mean {mean}: {errors[0]:.2e} as converted, {errors[1]:.2e} channels last")
    assert errors[1] <= 1.5 * errors[0]


def test_norms_are_left_alone_where_nothing_can_be_kept_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "marks_are_heeded", lambda: False)
    model = group_norm([1, 8, 4, 4], 2)
    assert keep_channels_last(model) == 0
    assert "MVN" in kinds(model)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"inner": 2.0}, id="a factor of the groups"),
        pytest.param({"axis": 1}, id="another axis"),
        pytest.param({"read_twice": True}, id="read in between"),
    ],
)
def test_what_is_no_group_norm_is_left_alone(other: dict[str, Any]) -> None:
    model = group_norm([1, 8, 4, 4], 2, np.ones(8, np.float32), **other)
    assert keep_channels_last(model) == 0
    assert "MVN" in kinds(model)

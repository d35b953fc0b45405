"""Group norms as sums over the picture, compared with the converter's, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino import channels_last_norms as rewrite
from kandinsky_runtime.engines.openvino.channels_last_norms import keep_channels_last
from kandinsky_runtime.engines.openvino.processor import has_bf16
from tests.parity.openvino.models import SHAPES, computed, feeds_of, kinds, of_component, reasons
from tests.tolerances import REWRITTEN

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only if OpenVINO is installed)

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")

EPSILON = 1e-5


def group_norm(
    shape: list[int],
    groups: int,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
    *,
    axis: int = 2,
    inner: float = 1.0,
    shift: float = 0.0,
    back: bool = True,
    variance: bool = True,
    epsilon_mode: str = "inside_sqrt",
    read_twice: bool = False,
    between_convolutions: bool = False,
) -> Any:
    """A group norm as the converter writes it: over (N, G, C/G x H x W), between two reshapes."""
    source = ops.parameter(shape, np.float32, name="x")

    def copied(value: Any) -> Any:
        """Without convolutions around it, OpenVINO computes everything in float32."""
        same = ops.constant(np.eye(shape[1], dtype=np.float32)[:, :, None, None])
        return ops.convolution(value, same, [1, 1], [0, 0], [0, 0], [1, 1]) if between_convolutions else value

    flat = ops.reshape(copied(source), ops.constant(np.array([shape[0], groups, -1])), False)
    normal = ops.mvn(flat, ops.constant(np.array([axis])), variance, EPSILON, epsilon_mode)
    normal = ops.add(ops.multiply(normal, np.full((1, groups, 1), inner, np.float32)), np.float32(shift))
    result = ops.reshape(normal, ops.constant(np.array(shape)), False) if back else ops.relu(normal)
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
    outcome = keep_channels_last(after)
    assert outcome.rewritten == len(of_pictures) > 0
    assert len(outcome.refusals) == len(norms) - len(of_pictures)
    assert np.abs(computed(after, feeds) - computed(before, feeds)).max() <= REWRITTEN


def test_the_norms_of_a_16_bit_graph_stay(tiny_lower_bundle: Path) -> None:
    model = openvino.Core().read_model(tiny_lower_bundle / "movq_decoder" / "model-fp16.onnx")
    model.reshape([1, 4, 8, 8])
    outcome = keep_channels_last(model)
    assert outcome.rewritten == 0
    expected = "its input is f16; expected f32: the sums would be f16, too"
    assert expected in {refusal.reason for refusal in outcome.refusals}
    openvino.compile_model(model, "CPU")


@pytest.mark.parametrize(("channels", "groups"), [(6, 3), (32, 32), (64, 2), (300, 1)])
@pytest.mark.parametrize("factors", [(), ("gamma",), ("gamma", "beta")])
def test_group_norm(channels: int, groups: int, factors: tuple[str, ...]) -> None:
    rng = np.random.default_rng(channels)
    given = {name: rng.standard_normal(channels, np.float32) for name in factors}
    shape = [2, channels, 5, 7]
    before, after = (group_norm(shape, groups, **given) for _ in range(2))
    assert keep_channels_last(after).rewritten == 1
    assert "MVN" not in kinds(after)
    feeds = {"x": rng.standard_normal(shape, np.float32) * 3 + 1}
    assert np.abs(computed(after, feeds) - computed(before, feeds)).max() <= REWRITTEN


@pytest.mark.parametrize("side", [4, 96])
@pytest.mark.parametrize("value", [0, 7])
def test_flat_picture_comes_out_as_beta(value: float, side: int) -> None:
    """Bit for bit, if float32 holds the sums exactly."""
    beta = np.arange(8, dtype=np.float32)
    model = group_norm([1, 8, side, side], 2, np.ones(8, np.float32), beta)
    assert keep_channels_last(model).rewritten == 1
    got = computed(model, {"x": np.full((1, 8, side, side), value, np.float32)})
    assert np.array_equal(got, np.broadcast_to(beta[:, None, None], got.shape))


@pytest.mark.parametrize("side", [4, 96])
@pytest.mark.parametrize("value", [7.3, -1234.5])
def test_variance_that_rounding_takes_below_zero(value: float, side: int) -> None:
    """The rounding error of the mean of a flat picture is magnified by at most 1 / √ε."""
    model = group_norm([1, 8, side, side], 2)
    assert keep_channels_last(model).rewritten == 1
    got = computed(model, {"x": np.full((1, 8, side, side), value, np.float32)})
    rounding = abs(value) * np.finfo(np.float32).eps * side
    assert np.abs(got).max() <= rounding / np.sqrt(EPSILON)


@needs_bf16
@pytest.mark.parametrize("mean", [0, 4, 32])
def test_means_far_from_zero_add_no_error(mean: float) -> None:
    """Compared with the converter's norm, whose sums and factors are in float32. Both get the same picture, in bf16.

    Rounding factor and shift, too, makes the error 1.15 times as large; with the error of σ² at a mean of 32 deviations
    it is 1.35 times as large. With sums in bf16, the variance would be lost completely there.
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


def test_norms_are_left_unchanged_if_marks_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "marks_are_heeded", lambda: False)
    model = group_norm([1, 8, 4, 4], 2)
    outcome = keep_channels_last(model)
    assert (outcome.rewritten, reasons(outcome)) == (0, {rewrite.MARKS_ARE_IGNORED})
    assert "MVN" in kinds(model)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"inner": 2.0}, "its Multiply within the groups is not 1 everywhere"),
        ({"shift": 1.0}, "its Add within the groups is not 0 everywhere"),
        ({"axis": 1}, "it normalises over the axes [1]; expected [2]"),
        ({"variance": False}, "it does not normalise the variance"),
        ({"epsilon_mode": "outside_sqrt"}, "its epsilon mode is OUTSIDE_SQRT, not INSIDE_SQRT"),
        ({"read_twice": True}, "its result within the groups has several readers or none"),
        ({"back": False}, "its result goes to a Relu, not to a Reshape back to [1, 8, 4, 4]"),
    ],
    ids=lambda item: "" if isinstance(item, dict) else item,
)
def test_other_norms_are_left_unchanged(other: dict[str, Any], reason: str) -> None:
    model = group_norm([1, 8, 4, 4], 2, None if "back" in other else np.ones(8, np.float32), **other)
    outcome = keep_channels_last(model)
    assert (outcome.rewritten, reasons(outcome)) == (0, {reason})
    assert "MVN" in kinds(model)


def layer_norm(shape: list[int], flat: list[int] | None) -> Any:
    """An MVN over the last axis of an input, which is reshaped first if `flat` is given."""
    source = ops.parameter(shape, np.float32, name="x")
    value = ops.relu(source) if flat is None else ops.reshape(source, ops.constant(np.array(flat)), False)
    normal = ops.mvn(value, ops.constant(np.array([2])), True, EPSILON, "inside_sqrt")
    return openvino.Model([ops.result(normal)], [source], "norm")


@pytest.mark.parametrize(
    ("shape", "flat", "reason"),
    [
        ([1, 6, 8], None, "its input is a Relu, not a Reshape to groups"),
        ([1, 6, 8], [1, 6, 8], "its input has 3 dimensions, which is not a picture of 4"),
        ([2, 6, 2, 2], [1, 12, 4], "its groups are [1, 12, 4] for a picture of [2, 6, 2, 2]"),
        ([1, 6, 2, 2], [1, 4, 6], "4 groups do not divide 6 channels"),
    ],
)
def test_norms_that_are_not_over_groups(shape: list[int], flat: list[int] | None, reason: str) -> None:
    assert reasons(keep_channels_last(layer_norm(shape, flat))) == {reason}

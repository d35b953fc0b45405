"""Marks that keep nodes in float32, heeded by OpenVINO or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines import float32_marks
from kandinsky_runtime.engines.float32_marks import in_float32, marks_are_heeded
from kandinsky_runtime.engines.processor import has_bf16
from tests.parity.openvino_models import computed

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only where OpenVINO is)

pytestmark = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")


def test_openvino_heeds_marks() -> None:
    """If this fails with a new OpenVINO, group norms are slower in bf16 and nothing else is wrong."""
    assert marks_are_heeded()


def test_without_a_mark_the_answer_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32_marks, "in_float32", lambda node: node)
    assert not marks_are_heeded.__wrapped__()


def test_an_openvino_without_the_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32_marks, "_KEY", "no such attribute")
    float32_marks._mark.cache_clear()
    try:
        assert not marks_are_heeded.__wrapped__()
    finally:
        float32_marks._mark.cache_clear()


@pytest.mark.parametrize("marked", [False, True])
def test_marked_nodes_are_not_rounded(marked: bool) -> None:
    """Between convolutions: a sum that bf16 cannot hold, taken off again."""
    mark: Any = in_float32 if marked else lambda node: node
    same = ops.constant(np.eye(16, dtype=np.float32)[:, :, None, None])
    source = ops.parameter([1, 16, 4, 4], np.float32)
    value = ops.convolution(source, same, [1, 1], [0, 0], [0, 0], [1, 1])
    sums = ops.reduce_mean(value, ops.constant(np.array([2, 3])), True)
    large = mark(
        ops.relu(mark(ops.reduce_l2(mark(ops.add(sums, np.float32(1000))), ops.constant(np.array([1])), True)))
    )
    model = openvino.Model(
        [ops.result(ops.convolution(ops.add(value, large), same, [1, 1], [0, 0], [0, 0], [1, 1]))], [source]
    )
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    kinds = {
        str(node.get_rt_info()["layerType"].value): str(node.get_rt_info()["outputPrecisions"].value)
        for node in compiled.get_runtime_model().get_ops()
        if large.get_friendly_name() in str(node.get_rt_info()["originalLayersNames"].value)
    }
    assert computed(model, {0: np.ones((1, 16, 4, 4), np.float32)}).shape == (1, 16, 4, 4)
    assert set(kinds.values()) == ({"f32"} if marked else {"bf16"})

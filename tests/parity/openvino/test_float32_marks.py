"""Marks that keep nodes in float32, whether OpenVINO respects them or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.engines.openvino import float32_marks
from kandinsky_runtime.engines.openvino.attributes import give_attribute
from kandinsky_runtime.engines.openvino.float32_marks import in_float32, marks_are_heeded
from kandinsky_runtime.engines.openvino.processor import has_bf16

openvino = pytest.importorskip("openvino")
from openvino import opset13 as ops  # noqa: E402 (only if OpenVINO is installed)

pytestmark = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")


def test_openvino_heeds_marks() -> None:
    """If this fails with a new OpenVINO, group norms are slower in bf16; nothing else is wrong."""
    assert marks_are_heeded()


def test_without_a_mark_the_answer_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float32_marks, "in_float32", lambda node: node)
    assert not marks_are_heeded.__wrapped__()


def test_an_openvino_without_the_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        float32_marks, "give_attribute", lambda node, name, value: give_attribute(node, "NoSuchAttribute", value)
    )
    assert not marks_are_heeded.__wrapped__()


@pytest.mark.parametrize("marked", [False, True])
def test_marked_nodes_are_written_in_float32(marked: bool) -> None:
    """Between convolutions, which OpenVINO always computes in bf16."""
    mark: Any = in_float32 if marked else lambda node: node

    def copied(value: Any) -> Any:
        same = ops.constant(np.eye(16, dtype=np.float32)[:, :, None, None])
        return ops.convolution(value, same, [1, 1], [0, 0], [0, 0], [1, 1])

    source = ops.parameter([1, 16, 4, 4], np.float32)
    value = copied(source)
    sums = mark(ops.add(ops.reduce_mean(value, ops.constant(np.array([2, 3])), True), np.float32(1000)))
    last = mark(ops.relu(mark(ops.reduce_l2(sums, ops.constant(np.array([1])), True))))
    model = openvino.Model([ops.result(copied(ops.add(value, last)))], [source])
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    written = {
        str(info["outputPrecisions"].value)
        for info in infos
        if last.get_friendly_name() in str(info["originalLayersNames"].value).split(",")
    }
    assert written == {"f32" if marked else "bf16"}

"""A graph cut at the timestep's sines and cosines, compared with the whole graph, in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kandinsky_runtime.engines.openvino.float32_waves import split_waves, wave_name
from tests.tolerances import SAME_ARITHMETIC


def test_waves_and_rest_compute_what_the_whole_graph_computes(case_bundle: Callable[[str], Path]) -> None:
    import openvino

    graph = case_bundle("four_blocks") / "unet" / "model-fp32.onnx"
    rng = np.random.default_rng(1)
    feeds = {
        "sample": rng.standard_normal((2, 9, 8, 16), np.float32),
        "timestep": np.array([951, 3], np.float32),
        "image_embeds": rng.standard_normal((2, 32), np.float32),
    }
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    (whole,) = core.compile_model(core.read_model(graph), "CPU", exact)(feeds).values()
    parts = split_waves(core.read_model(graph))
    assert parts is not None
    waves, rest = (core.compile_model(part, "CPU", exact) for part in parts)
    assert [port.any_name for port in waves.inputs] == ["timestep"]
    assert {port.any_name for port in rest.inputs} == {"sample", "image_embeds", wave_name(0), wave_name(1)}
    values = waves({"timestep": feeds["timestep"]}).values()
    fed = {"sample": feeds["sample"], "image_embeds": feeds["image_embeds"]}
    (joined,) = rest(fed | {wave_name(i): value for i, value in enumerate(values)}).values()
    np.testing.assert_allclose(joined, whole, rtol=0, atol=SAME_ARITHMETIC)


def test_graph_without_waves_stays_whole(case_bundle: Callable[[str], Path]) -> None:
    import openvino

    assert (
        split_waves(openvino.Core().read_model(case_bundle("four_blocks") / "movq_decoder" / "model-fp32.onnx")) is None
    )

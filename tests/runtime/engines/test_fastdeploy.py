"""The engine for FastDeploy, without the library: the calls of release 1.0.7's `runtime.py`, on a fake of it.

Nothing here shows that FastDeploy itself runs a bundle: the engine is unverified.
"""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.fastdeploy import FastDeployEngine
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import EngineError, EngineUnavailable, UsageError
from tests.runtime import fake_bundle


class RuntimeOption:
    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}

    def set_model_path(self, model_path: str, params_path: str = "", model_format: str = "PADDLE") -> None:
        self.calls["model"] = (Path(model_path).name, params_path, model_format)

    def use_cpu(self) -> None:
        self.calls["device"] = "cpu"

    def use_openvino_backend(self) -> None:
        self.calls["backend"] = "openvino"

    def set_cpu_thread_num(self, thread_num: int = -1) -> None:
        self.calls["threads"] = thread_num


class Runtime:
    made: list[RuntimeOption] = []  # noqa: RUF012

    def __init__(self, runtime_option: RuntimeOption) -> None:
        self.made.append(runtime_option)

    def num_outputs(self) -> int:
        return 1

    def get_output_info(self, index: int) -> Any:
        return types.SimpleNamespace(name=("noise_pred",)[index])

    def infer(self, data: dict[str, np.ndarray]) -> list[np.ndarray]:
        return list(fake_bundle.unet(**data).values())


@pytest.fixture
def fastdeploy(monkeypatch: pytest.MonkeyPatch, cache: Path) -> types.ModuleType:
    module = types.ModuleType("fastdeploy")
    module.__spec__ = ModuleSpec("fastdeploy", None)
    vars(module).update(
        RuntimeOption=RuntimeOption, Runtime=Runtime, ModelFormat=types.SimpleNamespace(ONNX="ONNX", PADDLE="PADDLE")
    )
    monkeypatch.setitem(sys.modules, "fastdeploy", module)
    monkeypatch.setattr(Runtime, "made", [])
    return module


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"sample": (2, 9, 8, 8), "timestep": (2,), "image_embeds": (2, fake_bundle.WIDTH)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def test_run(fastdeploy: types.ModuleType, gpu_bundle: Path) -> None:
    with Graphs.open(gpu_bundle, "fastdeploy", threads=3) as graphs:
        inputs = feeds()
        output = graphs.engine("unet").run(inputs)["noise_pred"]
    np.testing.assert_array_equal(output, fake_bundle.unet(**inputs)["noise_pred"])
    assert [item.calls for item in Runtime.made] == [
        {"model": ("model-fp32.onnx", "", "ONNX"), "device": "cpu", "backend": "openvino", "threads": 3}
    ]


def test_another_number_of_results(
    fastdeploy: types.ModuleType, gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "infer", lambda self, data: [])
    with (
        Graphs.open(gpu_bundle, "fastdeploy") as graphs,
        pytest.raises(EngineError, match="fastdeploy returned 0 tensors; expected noise_pred"),
    ):
        graphs.engine("unet").run(feeds())


def test_fastdeploy_2_is_refused(
    fastdeploy: types.ModuleType, gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fastdeploy, "RuntimeOption")
    with Graphs.open(gpu_bundle, "fastdeploy") as graphs, pytest.raises(EngineUnavailable) as caught:
        graphs.engine("unet")
    assert str(caught.value).startswith("this fastdeploy has no RuntimeOption; expected release 1.0.7: pip install")


def test_what_to_install(gpu_bundle: Path, cache: Path) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        registry.select(Bundle.open(gpu_bundle).manifest, "fastdeploy")
    assert str(caught.value) == (
        "engine fastdeploy is not installed: pip install fastdeploy-python==1.0.7 from the wheels that FastDeploy's own"
        " installation guide links; PyPI has none"
    )


def test_it_must_be_requested(fastdeploy: types.ModuleType, gpu_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_BUILT_IN", {"fastdeploy": registry._BUILT_IN["fastdeploy"]})
    with pytest.raises(EngineUnavailable) as caught:
        registry.select(Bundle.open(gpu_bundle).manifest)
    assert str(caught.value) == (
        "no engine can run this bundle here:\n  - engine fastdeploy must be requested: --engine fastdeploy"
    )
    assert registry.select(Bundle.open(gpu_bundle).manifest, "fastdeploy").engine is FastDeployEngine


def test_the_cpu_only(fastdeploy: types.ModuleType, gpu_bundle: Path) -> None:
    with pytest.raises(UsageError, match="engine fastdeploy runs on cpu; got device 'cuda'"):
        registry.select(Bundle.open(gpu_bundle).manifest, "fastdeploy", device="cuda")

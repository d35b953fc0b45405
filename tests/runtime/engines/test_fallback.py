"""Automatic choice: the next best engine, with a warning, if an engine cannot load a graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kandinsky_runtime.bench import measure
from kandinsky_runtime.build import build_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.profiles import Profile
from kandinsky_runtime.errors import EngineError, EngineUnavailable
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine
from tests.runtime.fake_tensorrt import FakeTensorRT

INPUTS: dict[str, Any] = {
    "image": np.full((64, 64, 3), 90, np.uint8),
    "mask_image": np.pad(np.full((16, 16), 255, np.uint8), ((8, 40), (8, 40))),
    "image_embeds": np.ones(fake_bundle.WIDTH),
    "negative_image_embeds": np.zeros(fake_bundle.WIDTH),
    "num_inference_steps": 2,
    "seed": 1,
    "output_type": "np",
}


class Better(FakeEngine):
    """An engine that is preferred to the fake one. Loading a graph in `fails` raises an error."""

    name = "better"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "fake-fp32"}
    fails: ClassVar[dict[str, Exception]] = {}
    opened: ClassVar[list[str]] = []
    closed: ClassVar[list[str]] = []

    def _open(self, files: Any, options: Any) -> None:
        super()._open(files, options)
        if self.component in self.fails:
            raise self.fails[self.component]
        self.opened.append(self.component)

    def _release(self) -> None:
        self.closed.append(self.component)


@pytest.fixture
def better(fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> type[Better]:
    for name, value in (("fails", {}), ("opened", []), ("closed", [])):
        monkeypatch.setattr(Better, name, value)
    monkeypatch.setattr(registry, "_BUILT_IN", {"better": "tests.runtime.engines.test_fallback:Better"})
    monkeypatch.setattr(registry, "names", lambda: ("better", "fake"))
    return Better


def test_the_best_is_taken(better: type[Better], bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with InpaintPipeline.load(bundle) as pipeline:
        pipeline(**INPUTS)
        assert pipeline.selection.engine is better
    assert not caplog.messages


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EngineUnavailable("the library is 1.0; expected 2.0"), "the library is 1.0; expected 2.0"),
        (EngineError("the GPU has no 5 GB of memory free"), "the GPU has no 5 GB of memory free"),
        (MemoryError("12 GB"), "movq_decoder cannot be loaded by better: 12 GB"),
        (ImportError("libcuda.so"), "engine better: numpy cannot be imported (libcuda.so): pip install numpy"),
    ],
)
def test_the_next_best_replaces_it(
    error: Exception,
    text: str,
    better: type[Better],
    fake_engine: type[FakeEngine],
    bundle: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with InpaintPipeline.load(bundle, engine="fake") as pipeline:
        expected = pipeline(**INPUTS).images
    better.fails["movq_decoder"] = error
    with InpaintPipeline.load(bundle) as pipeline:
        np.testing.assert_array_equal(pipeline(**INPUTS).images, expected)
        assert pipeline.selection.engine is fake_engine
        assert pipeline.options.device == "cpu"
    assert caplog.messages == [f"{text}; engine fake takes the place of better"]
    assert sorted(better.closed) == sorted(better.opened), "every graph of the engine that failed was released"


def test_a_benchmark_reports_the_engine_that_ran(better: type[Better], bundle: Path) -> None:
    better.fails["unet"] = EngineError("no")
    plan = measure.BenchPlan(cold_start=False, height=64, width=64, steps=1, repeats=1, warmup=0)
    (times,) = measure.run(Bundle.open(bundle), plan).engines
    assert times.name == "fake"


def test_an_engine_that_was_requested_is_not_replaced(better: type[Better], bundle: Path) -> None:
    better.fails["unet"] = EngineError("no")
    with InpaintPipeline.load(bundle, engine="better") as pipeline, pytest.raises(EngineError, match="^no$"):
        pipeline(**INPUTS)


def test_without_another_engine_the_error_is_raised(
    better: type[Better], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    better.fails["unet"] = EngineError("first")
    monkeypatch.setattr(registry, "names", lambda: ("better",))
    with Graphs.open(bundle) as graphs, pytest.raises(EngineError, match="^first$"):
        graphs.engine("unet")


def test_an_error_in_a_run_does_not_change_the_engine(
    better: type[Better], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> Any:
        raise RuntimeError("in the run")

    monkeypatch.setattr(better, "_run", run)
    with InpaintPipeline.load(bundle) as pipeline, pytest.raises(EngineError, match="in the run"):
        pipeline(**INPUTS)


def test_the_files_of_the_next_engine_are_checked(
    better: type[Better], tmp_path: Path, fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = fake_bundle.write(tmp_path / "checked")
    better.fails["unet"] = EngineError("no")
    checked = []
    check = Bundle.check_content
    monkeypatch.setattr(
        Bundle, "check_content", lambda self, variants, **options: checked.append(1) or check(self, variants, **options)
    )
    with Graphs.open(bundle, check=["unet"]) as graphs:
        assert len(checked) == 1
        graphs.engine("unet")
        assert len(checked) == 3


def test_engines_that_must_be_requested(better: type[Better], bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(better, "automatic", False)
    manifest = Bundle.open(bundle).manifest
    assert registry.select(manifest).engine.name == "fake"
    assert registry.select(manifest, "better").engine is better


def test_a_missing_library_is_reported_if_a_device_was_requested(
    better: type[Better], bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(better, "installed", classmethod(lambda cls: cls.name == "fake"))
    manifest = Bundle.open(bundle).manifest
    assert registry.select(manifest).engine.name == "fake"
    assert not caplog.messages
    assert registry.select(manifest, device="fake:1").engine.name == "fake"
    assert caplog.messages == ["engine better is not installed: pip install numpy; trying the next engine"]


def test_from_tensorrt_to_the_next(
    tensorrt: FakeTensorRT,
    fake_engine: type[FakeEngine],
    gpu_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class OnCpu(FakeEngine):
        name = "cpu"
        variants: ClassVar[Mapping[str, str]] = {"fp32": "onnx-fp32"}

        def _open(self, files: Any, options: Any) -> None:
            self._busy = threading.Lock()

    build_bundle(Bundle.open(gpu_bundle), "tensorrt", [Profile()])
    find = registry.engine_class
    monkeypatch.setattr(registry, "names", lambda: ("tensorrt", "cpu"))
    monkeypatch.setattr(registry, "engine_class", lambda name: OnCpu if name == "cpu" else find(name))
    tensorrt.cuda.gpus = 0
    with InpaintPipeline.load(gpu_bundle) as pipeline:
        assert pipeline.options.device == "cuda"
        pipeline(**INPUTS)
        assert (pipeline.selection.engine.name, pipeline.options.device) == ("cpu", "cpu")
    assert caplog.messages == [
        "CUDA finds no GPU here: cudaGetDeviceCount: what cudaErrorNoDevice means; engine cpu takes the place of"
        " tensorrt"
    ]

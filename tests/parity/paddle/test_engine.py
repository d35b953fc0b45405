"""Paddle Inference for a GPU, without one: its config, and errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("paddle")

from kandinsky_runtime import InpaintPipeline
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.paddle.engine import PaddleEngine
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span
from kandinsky_runtime.engines.records import BuildRecord
from kandinsky_runtime.errors import EngineError, EngineUnavailable, TensorError, UsageError
from tests.parity.pretend_cuda import PretendPaddle
from tests.runtime import fake_bundle


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PretendPaddle:
    """Paddle with two GPUs."""
    module = PretendPaddle(gpus=2)
    monkeypatch.setitem(sys.modules, "paddle", module)
    monkeypatch.setitem(sys.modules, "paddle.inference", module.inference)
    monkeypatch.setitem(sys.modules, "paddle.tensorrt", module.tensorrt)
    monkeypatch.setitem(sys.modules, "paddle.tensorrt.export", module.tensorrt.export)
    return module


def loaded(bundle: Path, device: str, precision: str | None = None) -> PaddleEngine:
    engine = InpaintPipeline.load(bundle, "paddle", precision, device).engine("movq_encoder")
    assert isinstance(engine, PaddleEngine)
    return engine


@pytest.mark.parametrize(
    ("device", "precision", "index", "kind"),
    [("cuda", None, 0, "Half"), ("cuda:1", "fp32", 1, "Float32"), ("cuda:1", "bf16", 1, "Bfloat16")],
)
def test_config(
    device: str, precision: str | None, index: int, kind: str, tiny_bundle: Path, pretend: PretendPaddle
) -> None:
    loaded(tiny_bundle, device, precision)
    calls = dict(pretend.calls)
    pool, number, asked = calls["enable_use_gpu"]
    assert (number, asked) == (index, getattr(pretend.inference.PrecisionType, kind))
    assert 0 < pool <= 1024
    assert "disable_gpu" not in calls


def test_float32_is_without_tf32(tiny_bundle: Path, pretend: PretendPaddle) -> None:
    loaded(tiny_bundle, "cuda", "fp16")
    assert pretend.switches == {}
    loaded(tiny_bundle, "cuda", "fp32")
    assert pretend.switches == {"cublas": False, "cudnn": False}


def test_the_calls_for_the_cpu(tiny_bundle: Path, pretend: PretendPaddle) -> None:
    engine = loaded(tiny_bundle, "cpu")
    assert [name for name, _ in pretend.calls] == [
        "disable_glog_info",
        "disable_gpu",
        "disable_mkldnn",
        "set_cpu_math_library_num_threads",
    ]
    image = np.zeros((1, 3, 64, 64), np.float32)
    assert engine.run({"image": image})["latents"].shape[2:] == (8, 8)


def test_a_build_without_cuda() -> None:
    """The installed paddlepaddle."""
    with pytest.raises(EngineUnavailable) as caught:
        registry.select(fake_bundle.manifest(variants={"paddle": "fp32"}), "paddle", device="cuda")
    assert str(caught.value).endswith(
        "was built without CUDA: pip uninstall paddlepaddle, then pip install 'paddlepaddle-gpu>=3.0' from"
        " PaddlePaddle's own package index (docs/engines.md)"
    )


def test_no_such_gpu(tiny_bundle: Path, pretend: PretendPaddle) -> None:
    with pytest.raises(EngineUnavailable) as caught:
        loaded(tiny_bundle, "cuda:2")
    assert str(caught.value) == "movq_encoder on paddle: there is no GPU cuda:2; Paddle finds cuda:0, cuda:1"


def test_no_gpu(tiny_bundle: Path, pretend: PretendPaddle) -> None:
    pretend.device.cuda.device_count = lambda: 0
    with pytest.raises(EngineUnavailable, match="there is no GPU cuda; Paddle finds none"):
        loaded(tiny_bundle, "cuda")


def test_a_config_that_stays_on_the_cpu(tiny_bundle: Path, pretend: PretendPaddle) -> None:
    pretend.refuses = True
    with pytest.raises(EngineUnavailable, match="movq_encoder on paddle: Paddle Inference refused cuda"):
        loaded(tiny_bundle, "cuda")


def test_out_of_memory(tiny_bundle: Path, pretend: PretendPaddle) -> None:
    pretend.failure = RuntimeError("ResourceExhaustedError: \n\nOut of memory error on GPU 0. Cannot allocate 2GB")
    with pytest.raises(EngineError, match="^movq_encoder on paddle: cuda is out of memory"):
        loaded(tiny_bundle, "cuda")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_cpu_runs_float32_only(precision: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry.select(fake_bundle.manifest(variants={"paddle": "fp32"}), "paddle", precision)
    assert str(caught.value) == f"engine paddle runs fp32 on cpu; got precision {precision!r}"


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "fp16")])
def test_default_precision(device: str, precision: str, pretend: PretendPaddle) -> None:
    manifest: Any = fake_bundle.manifest(variants={"paddle": "fp32"})
    selection = registry.select(manifest, "paddle", device=device)
    assert (selection.precision, selection.variant) == (precision, "paddle")


def test_a_built_graph_runs_with_tensorrt(
    tiny_bundle: Path, pretend: PretendPaddle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is converted at the first load, with runs at MIN, OPT and MAX of every profile, and then kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bundle = Bundle.open(tiny_bundle)
    entry = bundle.component("movq_encoder")
    digests = bundle.manifest.digests(entry.variants["paddle"])
    profiles = (
        GraphProfile(
            Profile(), {"batch": Span(1, 1, 1), "height": Span(64, 64, 128), "width": Span(64, 128, 128)}, 1, False
        ),
    )
    versions = {"paddlepaddle": PaddleEngine.version()}
    record = BuildRecord("paddle", "movq_encoder", Precision.FP32, "entry", "my-bundle", profiles, versions)
    record.save(digests)
    engine = loaded(tiny_bundle, "cuda", "fp32")
    (settings,) = pretend.conversions
    (image,) = settings["inputs"]
    assert image["name"] == "image"
    assert [array.shape for array in image["warmup_data"]] == [(1, 3, 64, 64), (1, 3, 64, 128), (1, 3, 128, 128)]
    assert settings["precision_mode"] == "FP32"
    assert [file.name for file in sorted(record.folder.iterdir())] == ["tensorrt.json", "tensorrt.pdiparams"]
    engine.run({"image": np.zeros((1, 3, 64, 128), np.float32)})
    with pytest.raises(TensorError, match="`image` is .*; height must be 64 to 128 for the engine that was built"):
        engine.run({"image": np.zeros((1, 3, 192, 64), np.float32)})
    loaded(tiny_bundle, "cuda", "fp32")
    assert len(pretend.conversions) == 1


def test_a_paddle_without_tensorrt(
    tiny_bundle: Path, pretend: PretendPaddle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "paddle.tensorrt")
    monkeypatch.delitem(sys.modules, "paddle.tensorrt.export")
    bundle = Bundle.open(tiny_bundle)
    digests = bundle.manifest.digests(bundle.component("movq_encoder").variants["paddle"])
    versions = {"paddlepaddle": PaddleEngine.version()}
    BuildRecord("paddle", "movq_encoder", Precision.FP32, "entry", "my-bundle", (), versions).save(digests)
    with pytest.raises(EngineUnavailable, match="movq_encoder on paddle was built with TensorRT, which this"):
        loaded(tiny_bundle, "cuda", "fp32")

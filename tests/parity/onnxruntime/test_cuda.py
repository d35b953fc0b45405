"""ONNX Runtime for a GPU, without one: sessions, options, tensors that stay on the device, CUDA graphs, and errors."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.onnxruntime.cuda import (
    CUDA_PROVIDER,
    MAX_CAPTURED_SHAPES,
    TENSORRT_PROVIDER,
    cuda_options,
)
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span
from kandinsky_runtime.engines.records import BuildRecord
from kandinsky_runtime.errors import EngineError, EngineUnavailable, TensorError, UsageError
from tests.parity.pretend_cuda import CPU, CUDA, PretendOnnxruntime, provider_names
from tests.runtime import fake_bundle

SPEC = GraphSpec(
    inputs=(TensorSpec("x", "float32", ("batch", "width")), TensorSpec("t", "float32", ("batch",))),
    outputs=(TensorSpec("y", "float32", ("batch", "2*width")), TensorSpec("s", "float32", ("batch",))),
    ranges={"batch": Range(), "width": Range()},
)
BOTH = (Precision.FP32, Precision.FP16)
NO_CAPTURE = "This session cannot use the graph capture feature as requested by the user"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = [sin(x), x], s = t + 1."""
    float_type = TensorProto.FLOAT
    nodes = [
        helper.make_node("Sin", ["x"], ["sine"]),
        helper.make_node("Concat", ["sine", "x"], ["y"], axis=1),
        helper.make_node("Add", ["t", "one"], ["s"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", float_type, ["batch", "width"]),
        helper.make_tensor_value_info("t", float_type, ["batch"]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", float_type, ["batch", "twice"]),
        helper.make_tensor_value_info("s", float_type, ["batch"]),
    ]
    one = helper.make_tensor("one", float_type, [1], [1.0])
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, [one]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    file = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(model, file)
    return file


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PretendOnnxruntime:
    module = PretendOnnxruntime()
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


def opened(graph: Path, device: str = "cuda", precision: str = "fp32") -> OnnxRuntimeEngine:
    options = EngineOptions(device=device, precision=precision)
    return OnnxRuntimeEngine("unet", SPEC, {"graph": graph, "weights": graph}, options)


def feeds(batch: int = 1, width: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((batch, width), np.float32),
        "t": rng.standard_normal(batch, np.float32),
    }


# -- options and sessions --


@pytest.mark.parametrize(("device", "index"), [("cuda", "0"), ("cuda:2", "2")])
def test_providers(device: str, index: str, graph: Path, pretend: PretendOnnxruntime) -> None:
    engine = opened(graph, device)
    assert pretend.opened == [[(CUDA, cuda_options(int(index), Precision.FP32)), CPU]]
    assert pretend.opened[0][0][1]["device_id"] == index
    engine.run(feeds())
    assert pretend.places == [("cuda", int(index))] * 4


def test_float32_is_float32_and_16_bits_run_channels_last() -> None:
    assert [cuda_options(0, precision)["use_tf32"] for precision in BOTH] == ["0", "0"]
    assert [cuda_options(0, precision)["prefer_nhwc"] for precision in BOTH] == ["0", "1"]
    assert cuda_options(0, Precision.FP16, graphs=False)["enable_cuda_graph"] == "0"


@pytest.mark.skipif(CUDA_PROVIDER not in onnxruntime.get_available_providers(), reason="needs onnxruntime-gpu")
@pytest.mark.parametrize("option", sorted(cuda_options(0, Precision.FP16)))
def test_the_library_knows_every_option(option: str, graph: Path) -> None:
    """CUDA's libraries are enough, without a GPU: options are read before the GPU is looked for."""
    known = {option: cuda_options(0, Precision.FP16)[option]}

    def error(options: dict[str, str]) -> str:
        try:
            session = onnxruntime.InferenceSession(
                str(graph), providers=[(CUDA_PROVIDER, options)], enable_fallback=False
            )
        except RuntimeError as fault:
            return str(fault)
        return "" if CUDA_PROVIDER in session.get_providers() else "left out"

    if error({}) == "left out":
        pytest.skip("CUDA's libraries are not installed")
    assert "Unknown provider option" in error({"no_such_option": "1"})
    said = error(known)
    assert "Unknown provider option" not in said
    assert "ParseStringWithClassicLocale" not in said


def test_the_session_for_the_cpu(graph: Path, pretend: PretendOnnxruntime) -> None:
    opened(graph, "cpu").run(feeds())
    assert pretend.opened == [[CPU]]
    assert pretend.places == []
    assert pretend.graph_ids == []


# -- runs --


def test_results_equal_the_cpus(graph: Path, pretend: PretendOnnxruntime) -> None:
    engine, cpu = opened(graph), opened(graph, "cpu")
    results = []
    for seed, (batch, width) in enumerate([(1, 3), (1, 3), (1, 3), (2, 5), (1, 3), (2, 5), (2, 5)]):
        given = feeds(batch, width, seed)
        got = engine.run(given)
        wanted = cpu.run(given)
        assert got.keys() == wanted.keys()
        results.append((got, wanted))
    for got, wanted in results:  # at the end: no later run changed them
        for name in wanted:
            np.testing.assert_array_equal(got[name], wanted[name])


def test_the_second_run_of_a_shape_is_captured(graph: Path, pretend: PretendOnnxruntime) -> None:
    engine = opened(graph)
    for width in (3, 3, 3, 4, 3, 4, 4, 3):
        engine.run(feeds(width=width))
    assert pretend.graph_ids == ["-1", "1", "1", "-1", "1", "2", "2", "1"]


def test_tensors_of_a_repeated_shape_stay_on_the_device(graph: Path, pretend: PretendOnnxruntime) -> None:
    engine = opened(graph)
    for seed in range(5):
        engine.run(feeds(seed=seed))
    assert len(pretend.places) == 4, "two inputs, two outputs, once"


def test_the_number_of_captured_shapes_is_limited(graph: Path, pretend: PretendOnnxruntime) -> None:
    engine = opened(graph)
    for width in range(1, MAX_CAPTURED_SHAPES + 3):
        for _ in range(3):
            engine.run(feeds(width=width))
    numbers = [number for number in range(1, MAX_CAPTURED_SHAPES + 1) for number in ("-1", str(number), str(number))]
    assert pretend.graph_ids == [*numbers, *["-1"] * 6]
    engine.run(feeds(width=1))
    assert pretend.graph_ids[-1] == "1"


def test_a_graph_that_cannot_be_captured(
    graph: Path, pretend: PretendOnnxruntime, caplog: pytest.LogCaptureFixture
) -> None:
    pretend.failure = lambda number: RuntimeError(NO_CAPTURE) if number == 0 else None
    with caplog.at_level(logging.WARNING):
        engine = opened(graph)
    assert f"unet on onnxruntime: running without CUDA graphs, after the error: {NO_CAPTURE}" in caplog.text
    assert [item[0][1]["enable_cuda_graph"] for item in pretend.opened] == ["1", "0"]
    for _ in range(3):
        engine.run(feeds())
    assert pretend.graph_ids == ["-1"] * 3


def test_the_second_graph_is_for_the_gpu(graph: Path, pretend: PretendOnnxruntime, tmp_path: Path) -> None:
    opened = []
    init = pretend.InferenceSession.__init__
    pretend.InferenceSession.__init__ = lambda self, path, *args, **kwargs: (  # type: ignore[method-assign]
        opened.append(path),
        init(self, path, *args, **kwargs),
    )[1]
    fused = tmp_path / "fused.onnx"
    fused.write_bytes(graph.read_bytes())
    files = {"graph": graph, "weights": graph, "cuda_graph": fused}
    for device in ("cuda", "cpu"):
        OnnxRuntimeEngine("unet", SPEC, files, EngineOptions(device=device)).run(feeds())
    assert opened == [str(fused), str(graph)]


def test_a_second_graph_that_the_provider_refuses(
    graph: Path, pretend: PretendOnnxruntime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fused = tmp_path / "fused.onnx"
    fused.write_bytes(b"GroupNorm of this size is not implemented")
    engine = OnnxRuntimeEngine(
        "unet", SPEC, {"graph": graph, "weights": graph, "cuda_graph": fused}, EngineOptions("cuda")
    )
    assert "unet on onnxruntime: running without the fused operators, after the error: " in caplog.text
    for _ in range(2):
        engine.run(feeds())
    assert pretend.graph_ids == ["-1", "1"]


def test_no_second_attempt_after_memory_ran_out(graph: Path, pretend: PretendOnnxruntime) -> None:
    pretend.failure = lambda number: RuntimeError("CUDA failure 2: out of memory")
    with pytest.raises(EngineError, match="is out of memory"):
        opened(graph)
    assert len(pretend.opened) == 1


# -- what is missing --


def test_a_build_without_cuda() -> None:
    """The installed onnxruntime, if it was built without CUDA."""
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(EngineUnavailable) as caught:
        registry.select(fake_bundle.manifest(variants={"onnx-fp32": "fp32"}), "onnxruntime", device="cuda")
    assert str(caught.value).startswith(
        f"engine onnxruntime: the installed onnxruntime {onnxruntime.__version__} has no CUDAExecutionProvider, only "
    )
    assert str(caught.value).endswith(": pip uninstall onnxruntime, then pip install onnxruntime-gpu")


def test_an_engine_that_was_not_chosen_checks_the_library_too(graph: Path, pretend: PretendOnnxruntime) -> None:
    pretend.found = [CPU]
    with pytest.raises(EngineUnavailable, match="has no CUDAExecutionProvider, only CPUExecutionProvider: pip"):
        opened(graph)
    assert pretend.opened == []


def test_a_provider_that_is_left_out(graph: Path, pretend: PretendOnnxruntime) -> None:
    pretend.left_out = True
    with pytest.raises(EngineUnavailable) as caught:
        opened(graph)
    assert str(caught.value) == (
        "unet on onnxruntime: CUDAExecutionProvider could not be loaded: the NVIDIA driver, cuDNN or CUDA 13.0 is"
        " missing: install the driver, and for the others pip install 'onnxruntime-gpu[cuda,cudnn]'"
    )


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeEngine, "installed", classmethod(lambda cls: False))
    with pytest.raises(EngineUnavailable, match="^engine onnxruntime is not installed: pip install onnxruntime-gpu$"):
        registry.select(fake_bundle.manifest(), "onnxruntime", device="cuda:1")


def test_no_gpu(graph: Path, pretend: PretendOnnxruntime) -> None:
    pretend.failure = lambda number: RuntimeError("CUDA failure 100: no CUDA-capable device is detected")
    with pytest.raises(EngineUnavailable, match="^unet on onnxruntime: there is no NVIDIA GPU here; got device cuda"):
        opened(graph)


def test_out_of_memory_in_a_run(graph: Path, pretend: PretendOnnxruntime, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(graph, "cuda:1")

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(pretend.InferenceSession, "run_with_iobinding", fail)
    with pytest.raises(EngineError, match="^unet on onnxruntime: cuda:1 is out of memory"):
        engine.run(feeds(), during="step 1")


def test_text_that_the_library_prints_is_not_on_stdout(
    graph: Path, pretend: PretendOnnxruntime, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend.printed = "Failed to load libcudnn.so.9\n"
    opened(graph)
    assert capsys.readouterr().out == ""


# -- TensorRT --

PROFILES = (
    GraphProfile(Profile(), {"batch": Span(1, 1, 2), "width": Span(3, 4, 5)}, 1, False),
    GraphProfile(Profile(), {"batch": Span(4, 4, 4), "width": Span(3, 3, 3)}, 1, False),
)
DIGESTS = {"graph": "1" * 64, "weights": "2" * 64}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildRecord:
    """The record of `k22 build --engine onnxruntime --device cuda` for the graph in float32."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    versions = {"onnxruntime": OnnxRuntimeEngine.version()}
    made = BuildRecord("onnxruntime", "unet", "fp32", "entry", "my-bundle", PROFILES, versions)
    made.save(DIGESTS)
    return made


def built(graph: Path, device: str = "cuda", precision: str = "fp32") -> OnnxRuntimeEngine:
    options = EngineOptions(device=device, precision=precision)
    return OnnxRuntimeEngine("unet", SPEC, {"graph": graph, "weights": graph}, options, DIGESTS)


def test_a_built_graph_runs_with_tensorrt(graph: Path, pretend: PretendOnnxruntime, record: BuildRecord) -> None:
    engine = built(graph, "cuda:1")
    (tensorrt, options), (cuda, cuda_settings), cpu = pretend.opened[0]
    assert (tensorrt, cuda, cpu) == (TENSORRT_PROVIDER, CUDA, CPU)
    assert cuda_settings == cuda_options(1, Precision.FP32, graphs=False)
    assert options["device_id"] == "1"
    assert options["trt_profile_min_shapes"] == "x:1x3,t:1,x:4x3,t:4"
    assert options["trt_profile_max_shapes"] == "x:2x5,t:2,x:4x3,t:4"
    assert options["trt_engine_cache_path"] == str(record.folder)
    assert record.folder.is_dir()
    for _ in range(3):
        engine.run(feeds(2, 5))
    assert pretend.graph_ids == ["-1"] * 3


def test_a_shape_outside_the_profiles(graph: Path, pretend: PretendOnnxruntime, record: BuildRecord) -> None:
    engine = built(graph)
    engine.run(feeds(4, 3))
    with pytest.raises(TensorError) as caught:
        engine.run(feeds(2, 6))
    assert "unet on onnxruntime: `x` is (2, 6); width must be 3 to 5 for the engine that was built" in str(caught.value)
    assert "k22 build my-bundle --engine onnxruntime --precision fp32" in str(caught.value)


@pytest.mark.parametrize(("device", "precision"), [("cpu", "fp32"), ("cuda", "fp16")])
def test_a_build_is_for_one_device_and_precision(
    device: str, precision: str, graph: Path, pretend: PretendOnnxruntime, record: BuildRecord
) -> None:
    built(graph, device, precision)
    assert TENSORRT_PROVIDER not in provider_names(pretend.opened[0])


def test_built_by_another_version(
    graph: Path, pretend: PretendOnnxruntime, record: BuildRecord, caplog: pytest.LogCaptureFixture
) -> None:
    dataclasses.replace(record, made_with={"onnxruntime": "1.0"}).save(DIGESTS)
    built(graph)
    assert TENSORRT_PROVIDER not in provider_names(pretend.opened[0])
    assert (
        "unet on onnxruntime runs without TensorRT: it was built with onnxruntime 1.0, the installed one is"
        in caplog.text
    )


def test_tensorrt_that_is_left_out(graph: Path, pretend: PretendOnnxruntime, record: BuildRecord) -> None:
    pretend.left_out = True
    with pytest.raises(EngineUnavailable, match="was built for TensorrtExecutionProvider, which could not be loaded"):
        built(graph)


# -- choice --


@pytest.mark.parametrize(
    ("device", "precision", "chosen"),
    [
        ("cuda", None, ("fp16", "onnx-fp16")),
        ("cuda:1", "fp32", ("fp32", "onnx-fp32")),
        ("cpu", None, ("fp32", "onnx-fp32")),
    ],
)
def test_precision(device: str, precision: str | None, chosen: tuple[str, str], pretend: PretendOnnxruntime) -> None:
    manifest = fake_bundle.manifest(variants={"onnx-fp32": "fp32", "onnx-fp16": "fp16"})
    selection = registry.select(manifest, "onnxruntime", precision, device)
    assert (selection.precision, selection.variant) == chosen


def test_auto_on_a_gpu(pretend: PretendOnnxruntime) -> None:
    manifest = fake_bundle.manifest(variants={"onnx-fp32": "fp32", "paddle": "fp32"})
    assert registry.select(manifest, device="cuda").engine is OnnxRuntimeEngine


def test_other_device_names(graph: Path) -> None:
    with pytest.raises(UsageError, match="engine onnxruntime runs on cpu, cuda; got device 'cuda:x'"):
        opened(graph, "cuda:x")


def test_closing_frees_the_session(graph: Path, pretend: PretendOnnxruntime) -> None:
    engine = opened(graph)
    engine.run(feeds())
    engine.close()
    assert engine._bound is None

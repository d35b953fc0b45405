"""The engine `tensorrt-rtx` without a GPU: builds, profiles, CUDA graphs, what is built again, and every error."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines import records, registry
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.build_job import BuildJob
from kandinsky_runtime.engines.profiles import GraphProfile, Profile, Span
from kandinsky_runtime.engines.tensorrt_rtx import plugin
from kandinsky_runtime.engines.tensorrt_rtx.build import build
from kandinsky_runtime.engines.tensorrt_rtx.engine import MAX_SHAPES, TensorRtRtxEngine
from kandinsky_runtime.errors import EngineError, EngineNotBuilt, EngineUnavailable, TensorError
from tests.parity.tensorrt_rtx.pretend_plugin import PretendPlugin, plugin_module

SPEC = GraphSpec(
    inputs=(TensorSpec("x", "float32", ("batch", "width")),),
    outputs=(TensorSpec("y", "float32", ("batch", "2*width")),),
    ranges={"batch": Range(), "width": Range()},
)
DIGESTS = {"graph": "0" * 64, "weights": "1" * 64}
DRIVER = "Failed to load library plugin.so with error: libcuda.so.1: cannot open shared object file"


def profile(batches: tuple[int, int, int], widths: tuple[int, int, int] = (1, 8, 64)) -> GraphProfile:
    return GraphProfile(Profile(), {"batch": Span(*batches), "width": Span(*widths)}, 1, False)


PROFILES = (profile((2, 2, 2)), profile((1, 1, 1)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> PretendPlugin:
    module, package = PretendPlugin(), plugin_module()
    package.__spec__ = ModuleSpec(plugin.MODULE, None)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setitem(sys.modules, plugin.MODULE, package)
    return module


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = [-x, x]."""
    nodes = [helper.make_node("Neg", ["x"], ["s"]), helper.make_node("Concat", ["s", "x"], ["y"], axis=1)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", name]) for name in "xy")
    made = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def job(graph: Path, profiles: tuple[GraphProfile, ...] = PROFILES, device: str = "cuda", **more: Any) -> BuildJob:
    options = EngineOptions(device, precision=Precision.FP16)
    files = {"graph": graph, "weights": graph}
    return BuildJob(TensorRtRtxEngine, "unet", SPEC, files, DIGESTS, "a bundle", profiles, options, **more)


def opened(graph: Path, device: str = "cuda") -> TensorRtRtxEngine:
    options = EngineOptions(device, precision=Precision.FP16)
    return TensorRtRtxEngine("unet", SPEC, {"graph": graph, "weights": graph}, options, DIGESTS)


def feeds(batch: int = 1, width: int = 3) -> dict[str, Any]:
    return {"x": np.random.default_rng(batch * 100 + width).standard_normal((batch, width), np.float32)}


def expected(given: dict[str, Any]) -> Any:
    return np.concatenate([-given["x"], given["x"]], axis=1)


def test_a_build_and_its_runs(graph: Path, pretend: PretendPlugin) -> None:
    assert build(job(graph))
    assert pretend.compiled[0]["nv_profile_max_shapes"] == "x:2x64,x:1x64"
    with opened(graph) as engine:
        results = [(given, engine.run(given)["y"]) for given in (feeds(), feeds(2), feeds(), feeds(1, 9), feeds(2))]
    for given, got in results:  # at the end: no later run changed them
        np.testing.assert_array_equal(got, expected(given))
    ((context, options),) = pretend.sessions
    assert context.name == "context.onnx"
    assert options["enable_cuda_graph"] == options["nv_multi_profile_enable"] == "1"
    assert Path(options["nv_runtime_cache_path"]).is_dir()
    assert not Path(options["nv_runtime_cache_path"]).is_relative_to(context.parent), "it would break the seal"
    found = [(run["nv_profile_index"], run["cuda_graph_annotation_id"]) for run in pretend.runs]
    assert found == [("1", "1"), ("0", "2"), ("1", "1"), ("1", "3"), ("0", "2")]


def test_the_plugin_is_registered_once(graph: Path, pretend: PretendPlugin) -> None:
    build(job(graph))
    for _ in range(2):
        opened(graph).close()
    assert pretend.registered == [(plugin.PROVIDER, "the plugin")]


def test_more_shapes_than_a_session_keeps(graph: Path, pretend: PretendPlugin) -> None:
    build(job(graph))
    with opened(graph) as engine:
        for width in range(1, MAX_SHAPES + 2):
            given = feeds(1, width)
            np.testing.assert_array_equal(engine.run(given)["y"], expected(given))
    assert len(pretend.sessions) == 2
    numbers = [run["cuda_graph_annotation_id"] for run in pretend.runs]
    assert numbers == [*map(str, range(1, MAX_SHAPES + 1)), "1"]


def test_a_shape_outside_the_profiles(graph: Path, pretend: PretendPlugin) -> None:
    build(job(graph, weight_memory="2G"))
    with opened(graph) as engine, pytest.raises(TensorError, match="batch must be 2 .* --weight-memory 2G --height"):
        engine.run(feeds(3))
    assert not pretend.runs


def test_weight_memory(graph: Path, pretend: PretendPlugin) -> None:
    build(job(graph, weight_memory="2G"))
    opened(graph).close()
    for options in (pretend.compiled[0], pretend.sessions[0][1]):
        assert options["nv_weight_streaming_budget"] == "2G"


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, False),
        ({"profiles": (profile((1, 2, 4)),)}, True),
        ({"weight_memory": "1G"}, True),
        ({"workspace": 10**9}, True),
    ],
)
def test_what_is_built_again(change: dict[str, Any], again: bool, graph: Path, pretend: PretendPlugin) -> None:
    assert build(job(graph))
    assert build(job(graph, **change)) is again
    assert len(pretend.compiled) == 1 + again


def test_another_version_is_built_again(graph: Path, pretend: PretendPlugin) -> None:
    build(job(graph))
    pretend.__version__ = "1.100.0"
    with pytest.raises(EngineNotBuilt, match=r"was built for onnxruntime 1\.99\.0; this machine has 1\.100\.0; build"):
        opened(graph)
    assert build(job(graph))
    opened(graph).close()


def test_a_damaged_engine(graph: Path, pretend: PretendPlugin) -> None:
    build(job(graph))
    record = records.find("tensorrt-rtx", "unet", DIGESTS)
    assert record is not None
    (record.folder / "0.engine").write_bytes(b"other")
    with pytest.raises(EngineNotBuilt, match="is missing or was changed; build it again: k22 build a bundle"):
        opened(graph)


def test_nothing_was_built(graph: Path, pretend: PretendPlugin) -> None:
    with pytest.raises(EngineNotBuilt, match="engine tensorrt-rtx runs only what k22 build made"):
        opened(graph)
    assert not pretend.registered


def test_no_driver(graph: Path, pretend: PretendPlugin) -> None:
    pretend.refusal = RuntimeError(DRIVER)
    with pytest.raises(EngineUnavailable) as caught:
        build(job(graph))
    assert str(caught.value) == (
        "there is no NVIDIA driver here, and TensorRT-RTX needs one: install it, or choose another engine"
    )


@pytest.mark.parametrize(
    ("gpus", "device", "text"),
    [
        (0, "cuda", "there is no RTX GPU here: TensorRT-RTX needs compute capability 8.6, 8.9, or 12.0 and later"),
        (1, "cuda:1", "there is no RTX GPU cuda:1; TensorRT-RTX found 1, and cuda:0 is the first"),
    ],
)
def test_no_such_gpu(gpus: int, device: str, text: str, graph: Path, pretend: PretendPlugin) -> None:
    pretend.gpus = gpus
    with pytest.raises(EngineUnavailable, match=text):
        build(job(graph, device=device))


def test_another_refusal_of_the_plugin(graph: Path, pretend: PretendPlugin) -> None:
    pretend.refusal = RuntimeError("version `VERS_9' not found")
    with pytest.raises(EngineUnavailable, match="cannot load the plugin of TensorRT-RTX: version `VERS_9' not found"):
        build(job(graph))


def test_an_old_onnxruntime(graph: Path, pretend: PretendPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(PretendPlugin, "copy_tensors")
    with pytest.raises(EngineUnavailable, match=r"onnxruntime 1\.99\.0 has no copy_tensors; expected 1\.24 or newer"):
        build(job(graph))


def test_a_graph_that_cannot_be_built(graph: Path, pretend: PretendPlugin) -> None:
    pretend.failure = RuntimeError("no importer\nfor Foo")
    with pytest.raises(EngineError, match=r"cannot build the engine of unet \(no importer for Foo\): k22-export check"):
        build(job(graph))
    assert records.find("tensorrt-rtx", "unet", DIGESTS) is None


@pytest.mark.parametrize("engines", [0, 2])
def test_a_graph_that_is_not_built_whole(engines: int, graph: Path, pretend: PretendPlugin) -> None:
    pretend.engines = engines
    with pytest.raises(EngineError, match=f"made {engines} engines of unet and left a part of the graph outside"):
        build(job(graph))
    assert records.find("tensorrt-rtx", "unet", DIGESTS) is None


def test_memory_that_runs_out(graph: Path, pretend: PretendPlugin) -> None:
    pretend.failure = RuntimeError("CUDA failure 2: out of memory")
    with pytest.raises(EngineError, match="unet on tensorrt-rtx: cuda is out of memory"):
        build(job(graph))


def test_the_choice_auto_tries_it_first() -> None:
    assert registry.names()[0] == "tensorrt-rtx"
    assert TensorRtRtxEngine.automatic
    assert TensorRtRtxEngine.needs_build

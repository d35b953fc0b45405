"""Building TensorRT engines, without the library: every call is checked against three versions of the published API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kandinsky_runtime.build import build_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.engines.build_job import Built
from kandinsky_runtime.engines.profiles import Profile, Span
from kandinsky_runtime.errors import EngineError, EngineUnavailable, UsageError
from tests.runtime import fake_bundle
from tests.runtime.fake_cuda import FakeCuda
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.vendor_api import TENSORRT_VERSIONS, NotInTheApi

COMPONENTS = ["unet", "movq_encoder", "movq_decoder"]
SMALL = Profile(Span(64, 64, 128), Span(64, 96, 128), Span(1, 1, 2))


def build(bundle: Path, profile: Profile = SMALL, **options: Any) -> list[Built]:
    return build_bundle(Bundle.open(bundle), "tensorrt", [profile], name="a bundle", **options)


def built(bundle: Path, profile: Profile = SMALL, **options: Any) -> list[str]:
    """The graphs that had to be built."""
    return [item.component for item in build(bundle, profile, **options) if item.built]


@pytest.mark.parametrize("version", TENSORRT_VERSIONS)
def test_every_graph_is_built_by_the_published_api(
    version: str, gpu_bundle: Path, cuda: FakeCuda, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRT(cuda, version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    assert built(gpu_bundle) == COMPONENTS
    unet = fake.built[0]
    assert unet["component"] == "unet"
    assert unet["strongly_typed"]
    assert {"STRIP_PLAN", "REFIT_IDENTICAL"} <= set(unet["flags"])
    assert unet["profiles"] == [
        {
            "sample": [(1, 9, 8, 8), (2, 9, 8, 12), (4, 9, 16, 16)],
            "timestep": [(1,), (2,), (4,)],
            "image_embeds": [(1, 6), (2, 6), (4, 6)],
        }
    ]


def test_float32_is_not_computed_in_tf32(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle, precision="fp16")
    build(gpu_bundle, precision="fp32")
    flags = [set(item["flags"]) for item in tensorrt.built]
    assert ["TF32" in item for item in flags] == [True] * 3 + [False] * 3


def test_workspace(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle)
    build(gpu_bundle, workspace=2 * 10**9)
    assert [item["limits"] for item in tensorrt.built] == [{}] * 3 + [{"WORKSPACE": 2 * 10**9}] * 3


def test_a_fixed_size_is_two_fixed_profiles_of_the_unet(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle, Profile(Span(64, 64, 64), Span(64, 64, 64), Span(1, 1, 1)))
    assert [profile["timestep"] for profile in tensorrt.built[0]["profiles"]] == [[(2,)] * 3, [(1,)] * 3]
    assert len(tensorrt.built[1]["profiles"]) == 1


# -- when to build again --


def test_nothing_is_built_twice(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    assert built(gpu_bundle) == COMPONENTS
    assert built(gpu_bundle) == []
    assert len(tensorrt.built) == 3


def other_profile(bundle: Path, tensorrt: FakeTensorRT) -> dict[str, Any]:
    return {"profile": Profile(Span(64, 64, 192), Span(64, 96, 128), Span(1, 1, 2))}


def other_precision(bundle: Path, tensorrt: FakeTensorRT) -> dict[str, Any]:
    return {"precision": "fp32"}


def other_version(bundle: Path, tensorrt: FakeTensorRT) -> dict[str, Any]:
    tensorrt.module.__version__ = "11.9.0"
    return {}


def other_gpu(bundle: Path, tensorrt: FakeTensorRT) -> dict[str, Any]:
    tensorrt.cuda.name = "NVIDIA Other"
    return {}


def other_capability(bundle: Path, tensorrt: FakeTensorRT) -> dict[str, Any]:
    tensorrt.cuda.capability = (9, 0)
    return {}


@pytest.mark.parametrize(
    "change",
    [other_profile, other_precision, other_version, other_gpu, other_capability],
    ids=lambda item: item.__name__,
)
def test_a_change_is_built_next_to_the_earlier_one(change: Any, gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle)
    assert built(gpu_bundle, **change(gpu_bundle, tensorrt)) == COMPONENTS


def test_only_the_graph_whose_weights_changed_is_built(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle)

    def change(data: dict[str, Any]) -> None:
        file = gpu_bundle / "movq_decoder/weights-fp16.bin"
        file.write_bytes(file.read_bytes()[::-1])
        data["files"]["movq_decoder/weights-fp16.bin"]["sha256"] = fake_bundle.digest(file)

    fake_bundle.rewrite(gpu_bundle, change)
    assert built(gpu_bundle) == ["movq_decoder"]


def test_an_engine_that_was_changed_is_built_again(gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path) -> None:
    build(gpu_bundle)
    plan = next(cache.glob("*/tensorrt/*/engine.plan"))
    plan.write_bytes(plan.read_bytes()[:-1])
    assert len(built(gpu_bundle)) == 1


def test_a_bundle_that_was_moved_needs_no_build(gpu_bundle: Path, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    build(gpu_bundle)
    assert built(gpu_bundle.rename(tmp_path / "moved")) == []


# -- timings --


def test_timings_are_kept_for_the_next_build_on_this_machine(
    gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path
) -> None:
    build(gpu_bundle)
    assert tensorrt.timing_caches == [b"", b"timings", b"timings"]
    tensorrt.module.__version__ = "11.9.0"
    build(gpu_bundle)
    assert tensorrt.timing_caches[3:] == [b"", b"timings", b"timings"]


@pytest.mark.parametrize("content", [b"garbage", b"of another machine"])
def test_unusable_timings_are_replaced(content: bytes, gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path) -> None:
    build(gpu_bundle)
    (file,) = cache.glob("*/tensorrt-timing/*")
    file.write_bytes(content)
    build(gpu_bundle, precision="fp32")
    assert tensorrt.timing_caches[3] == b""
    assert file.read_bytes() == b"timings"


# -- what can go wrong --


@pytest.mark.parametrize(
    ("failure", "logged", "text"),
    [
        (
            "parse",
            "no importer for Conv",
            "TensorRT cannot read the graph of unet (node conv_1 (Conv): no importer for Conv): k22-export check BUNDLE"
            " lists what it cannot take",
        ),
        (
            "builder",
            "CUDA initialization failure with error: 2",
            "TensorRT cannot build the engine of unet: pybind11::init(): factory function returned nullptr (CUDA"
            " initialization failure with error: 2)",
        ),
        ("read", "the file is no ONNX", "TensorRT cannot read the graph of unet (the file is no ONNX)"),
        ("build", "no tactic for conv_1", "TensorRT cannot build the engine of unet (no tactic for conv_1)"),
        (
            "build",
            "Error Code 2: OutOfMemory (requested 12 bytes)",
            "TensorRT cannot build the engine of unet: the GPU has too little memory free (Error Code 2: OutOfMemory"
            " (requested 12 bytes))",
        ),
    ],
)
def test_a_failure_has_its_reason_and_leaves_nothing(
    failure: str, logged: str, text: str, gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path
) -> None:
    tensorrt.failures[failure] = logged
    with pytest.raises(EngineError) as caught:
        build(gpu_bundle)
    assert str(caught.value) == text
    assert not list(cache.glob("*/tensorrt/*"))
    assert not list(cache.glob("*/built/*/*"))


def test_a_profile_that_is_refused(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    tensorrt.failures["profile"] = ""
    with pytest.raises(EngineError, match="TensorRT does not take the profile --height 64:64:128 .* of unet"):
        build(gpu_bundle)


def test_interrupted(gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path) -> None:
    tensorrt.interrupt_at = 1
    with pytest.raises(KeyboardInterrupt):
        build(gpu_bundle)
    assert not list(cache.glob("*/tensorrt/*"))


def test_progress(gpu_bundle: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    build(gpu_bundle, progress=True)
    assert "unet: Timing" in capsys.readouterr().err
    build(gpu_bundle, precision="fp32")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0"])
def test_too_old(version: str, gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    tensorrt.module.__version__ = version
    with pytest.raises(EngineUnavailable) as caught:
        build(gpu_bundle)
    assert str(caught.value) == (f"TensorRT is {version}; expected 10.3 or newer: pip install --upgrade tensorrt")


def test_not_installed(gpu_bundle: Path, cache: Path) -> None:
    with pytest.raises(
        EngineUnavailable, match="^engine tensorrt is not installed: pip install tensorrt cuda-bindings$"
    ):
        build(gpu_bundle)


def test_no_gpu(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    tensorrt.cuda.gpus = 0
    with pytest.raises(EngineUnavailable) as caught:
        build(gpu_bundle)
    assert str(caught.value) == "CUDA finds no GPU here: cudaGetDeviceCount: what cudaErrorNoDevice means"


def test_no_such_gpu(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    with pytest.raises(EngineUnavailable, match="CUDA finds 1 GPUs here, numbered from 0; got device cuda:1"):
        build(gpu_bundle, device="cuda:1")


@pytest.mark.parametrize("device", ["cpu", "cuda:", "cuda:x", "gpu"])
def test_no_device_for_it(device: str, gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    with pytest.raises(UsageError, match=f"engine tensorrt runs on cuda; got device '{device}'"):
        build(gpu_bundle, device=device)


def test_no_cuda_bindings(gpu_bundle: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineUnavailable, match=r"cuda.bindings cannot be imported \(.*\): pip install cuda-bindings"):
        build(gpu_bundle)


def test_the_record_names_what_was_built(gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path) -> None:
    build(gpu_bundle, precision="fp16")
    records = [json.loads(file.read_text()) for file in cache.glob("*/built/tensorrt/*.json")]
    assert sorted(item["component"] for item in records) == sorted(COMPONENTS)
    assert {item["bundle"] for item in records} == {"a bundle"}
    assert records[0]["made_with"] == {
        "TensorRT": TENSORRT_VERSIONS[-1], "GPU": "NVIDIA Fake", "compute capability": "8.6",
    }  # fmt: skip


def test_the_fake_refuses_what_the_bindings_refuse(tensorrt: FakeTensorRT) -> None:
    library = tensorrt.module
    log = library.ILogger()
    for call in (
        lambda: library.Builder(),
        lambda: library.Builder(log).create_network("1"),
        lambda: library.Builder(log).create_optimization_profile().set_shape("x", (1,), (1,)),
        lambda: library.OnnxParser(log, log),
        lambda: library.Runtime(log).deserialize_cuda_engine("text"),
        lambda: setattr(library.Builder(log).create_builder_config(), "num_optimization_profiles", 1),
        lambda: setattr(library.Builder(log).create_builder_config(), "no_such_property", 1),
    ):
        with pytest.raises(NotInTheApi):
            call()
    with pytest.raises(AttributeError):
        library.Builder(log).no_such_method()
    assert not hasattr(library.BuilderFlag, "FP16"), "TensorRT 11 has no such flag"

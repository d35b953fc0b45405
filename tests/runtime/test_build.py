"""`k22 build`, from the command line to each builder: build.py, cli/build.py, build_job.py and loading_build.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kandinsky_runtime.build import build_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.cli import main
from kandinsky_runtime.engines import records, registry
from kandinsky_runtime.engines.base import Arrays, Engine, EngineOptions
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.engines.openvino.engine import OpenVinoEngine
from kandinsky_runtime.engines.profiles import Profile
from kandinsky_runtime.errors import EngineError
from tests.runtime import fake_bundle
from tests.runtime.fake_tensorrt import FakeTensorRT


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    status = main(["build", *map(str, args)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_text(gpu_bundle: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, gpu_bundle, "--engine", "tensorrt", "--quiet")
    assert (status, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["unet", "built"], ["movq_encoder", "built"], ["movq_decoder", "built"],
    ]  # fmt: skip
    _, out, _ = run(capsys, gpu_bundle, "--engine", "tensorrt", "--quiet")
    assert out == "unet          up to date\nmovq_encoder  up to date\nmovq_decoder  up to date\n"


def test_json(gpu_bundle: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(
        capsys, gpu_bundle, "--engine", "tensorrt", "--height", "512:768:1024", "--width", "768", "--batch", "1:2:8",
        "--precision", "fp16", "--workspace", "1.5", "--quiet", "--json",
    )  # fmt: skip
    data = json.loads(out)
    assert status == 0
    assert data["profiles"] == [
        {
            "height": {"min": 512, "opt": 768, "max": 1024},
            "width": {"min": 768, "opt": 768, "max": 768},
            "batch": {"min": 1, "opt": 2, "max": 8},
        }
    ]
    assert [(item["component"], item["built"]) for item in data["graphs"]] == [
        ("unet", True), ("movq_encoder", True), ("movq_decoder", True),
    ]  # fmt: skip
    assert tensorrt.built[0]["limits"] == {"WORKSPACE": 1_500_000_000}


def test_several_profiles(gpu_bundle: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, _ = run(
        capsys, gpu_bundle, "--engine", "tensorrt", "--quiet",
        "--height", "64", "--height", "128:192:256", "--width", "64", "--width", "128", "--batch", "1",
    )  # fmt: skip
    assert status == 0
    shapes = [profile["latents"] for profile in tensorrt.built[2]["profiles"]]
    assert shapes == [[(1, 4, 8, 8)] * 3, [(1, 4, 16, 16), (1, 4, 24, 16), (1, 4, 32, 16)]]


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (
            ["--engine", "auto"],
            2,
            "nothing can be built for engine 'auto'; choose from tensorrt-rtx, tensorrt, openvino, onnx",
        ),
        (["--engine", "fastdeploy"], 2, "nothing can be built for engine 'fastdeploy'"),
        (
            ["--engine", "tensorrt", "--height", "tall"],
            2,
            "--height is 'tall'; expected MIN:OPT:MAX such as 512:768:1024",
        ),
        (
            ["--engine", "tensorrt", "--batch", "4:2:1"],
            2,
            "--batch is '4:2:1': the span is 4:2:1; expected 1 <= MIN <= ",
        ),
        (
            ["--engine", "tensorrt", *["--height", "64"] * 3, *["--width", "64"] * 2],
            2,
            "--width is given 2 times; expected once or 3 times, as the others",
        ),
        (
            ["--engine", "tensorrt", "--height", "32"],
            2,
            "--height 32 --width 512:768:1024 --batch 1:1:4: expected heights and widths of at least 64 px",
        ),
        (
            ["--engine", "tensorrt", "--width", "64:64:900000"],
            2,
            "--height 512:768:1024 --width 64:64:900000 --batch 1:1:4: expected results of at most 89,478,485 pixels",
        ),
        (
            ["--engine", "tensorrt", "--batch", "1:1:2000"],
            2,
            "--height 512:768:1024 --width 512:768:1024 --batch 1:1:2000: expected a batch of at most 1024 results",
        ),
        (["--engine", "tensorrt", "--workspace", "0"], 2, "--workspace is 0; expected a number of gigabytes above 0"),
        (
            ["--engine", "tensorrt", "--workspace", "nan"],
            2,
            "--workspace is nan; expected a number of gigabytes",
        ),
        (
            ["--engine", "onnxruntime", "--workspace", "1"],
            2,
            "a workspace is for engine tensorrt, tensorrt-rtx only; got engine onnxruntime: leave the workspace out",
        ),
        (
            ["--engine", "tensorrt", "--weight-memory", "2G"],
            2,
            "weight memory is for engine tensorrt-rtx only; got engine tensorrt: leave it out",
        ),
        (
            ["--engine", "tensorrt-rtx", "--weight-memory", "2"],
            2,
            "weight memory is '2'; expected a size such as 512M or 2G, a share such as 50%, or auto",
        ),
        (["--engine", "tensorrt", "--precision", "fp8"], 2, "precision is 'fp8'; choose from fp32, fp16, bf16"),
        (
            ["--engine", "tensorrt", "--precision", "bf16"],
            1,
            "engine tensorrt needs variant onnx-bf16; the bundle has onn",
        ),
        (
            ["--engine", "onnxruntime"],
            2,
            "engine onnxruntime builds nothing for the CPU, where it takes any shape; for a GPU, give --device cuda",
        ),
    ],
)
def test_refusals(
    options: list[str],
    status: int,
    text: str,
    gpu_bundle: Path,
    tensorrt: FakeTensorRT,
    capsys: pytest.CaptureFixture[str],
) -> None:
    got, out, err = run(capsys, gpu_bundle, *options)
    assert (got, out) == (status, "")
    assert err.startswith(f"k22: error: {text}")
    assert err.count("\n") == 1
    assert not tensorrt.built


def test_an_engine_is_required(gpu_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["build", str(gpu_bundle)])
    assert "--engine" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written(
    gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_text("a file where the folder should be")
    status, _, err = run(capsys, gpu_bundle, "--engine", "tensorrt", "--quiet")
    assert status == 1
    assert err.startswith("k22: error: what is built of unet cannot be written to disk: ")


def test_a_damaged_bundle_is_found_before_anything_is_built(
    gpu_bundle: Path, tensorrt: FakeTensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    file = gpu_bundle / "movq_decoder/weights-fp16.bin"
    file.write_bytes(file.read_bytes()[::-1])
    status, _, err = run(capsys, gpu_bundle, "--engine", "tensorrt", "--quiet")
    assert status == 1
    assert "movq_decoder/weights-fp16.bin has changed since it was written" in err
    assert not tensorrt.built


# -- optional graphs --


def add_optional_graph(bundle: Path, variants: Sequence[str]) -> Path:
    """Add a graph like MoVQ's decoder, which no task of the decoder needs, in these variants."""

    def change(data: dict[str, Any]) -> None:
        decoder = data["components"]["movq_decoder"]
        kept = {name: item for name, item in decoder["variants"].items() if name in variants}
        data["components"]["image_encoder"] = decoder | {"variants": kept}

    return fake_bundle.rewrite(bundle, change)


def test_a_graph_that_lacks_the_variant_is_built_in_another(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    bundle = Bundle.open(add_optional_graph(gpu_bundle, ["onnx-fp32"]))
    done = build_bundle(bundle, "tensorrt", [Profile()], precision="fp16")
    assert [(item.component, item.built) for item in done] == [
        ("unet", True), ("movq_encoder", True), ("movq_decoder", True), ("image_encoder", True),
    ]  # fmt: skip
    digests = bundle.manifest.digests(bundle.manifest.components["image_encoder"].variants["onnx-fp32"])
    record = records.find("tensorrt", "image_encoder", digests)
    assert record is not None
    assert record.precision == Precision.FP32


def test_a_graph_without_any_variant_for_the_engine_is_left_out(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    bundle = Bundle.open(add_optional_graph(gpu_bundle, []))
    *decoder, other = build_bundle(bundle, "tensorrt", [Profile()])
    assert all(item.built for item in decoder)
    assert (other.component, other.built) == ("image_encoder", False)
    assert other.left_out == (
        "engine tensorrt needs variant onnx-fp16 or onnx-bf16 or onnx-fp32; image_encoder of the bundle has none:"
        " export it again with --variants"
    )


# -- engines that build while they load --


class Loading(Engine):
    """An engine that makes TensorRT engines when it loads a graph."""

    name = "onnxruntime"
    library = "numpy"
    distribution = "numpy"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "onnx-fp32", "fp16": "onnx-fp16"}
    devices = ("cpu", "cuda")
    seen: ClassVar[list[records.BuildRecord | None]] = []
    fails: ClassVar[bool] = False

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        self.seen.append(records.find(self.name, self.component, self.digests))
        if self.fails:
            raise EngineError("out of memory")

    def _run(self, feeds: Arrays) -> Any:
        raise NotImplementedError

    def _release(self) -> None:
        pass


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch, cache: Path) -> type[Loading]:
    monkeypatch.setattr(registry, "engine_class", lambda name: Loading)
    monkeypatch.setattr(Loading, "seen", [])
    return Loading


CUDA = ("--engine", "onnxruntime", "--device", "cuda", "--quiet")


def test_the_engine_finds_the_profiles_when_it_loads(
    loading: type[Loading], gpu_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, gpu_bundle, *CUDA, "--height", "64:64:128", "--precision", "fp16")
    assert status == 0
    assert out.count("built") == 3
    record = loading.seen[0]
    assert record is not None
    assert record.component == "unet"
    assert record.precision == "fp16"
    assert record.profiles[0].spans["height"].max == 16
    _, out, _ = run(capsys, gpu_bundle, *CUDA, "--height", "64:64:128", "--precision", "fp16")
    assert out.count("up to date") == 3
    _, out, _ = run(capsys, gpu_bundle, *CUDA, "--height", "64", "--precision", "fp16")
    assert out.count("built") == 3


def test_nothing_is_recorded_of_a_graph_that_does_not_load(
    loading: type[Loading], gpu_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "fails", True)
    status, _, err = run(capsys, gpu_bundle, *CUDA)
    assert (status, err) == (1, "k22: error: out of memory\n")
    manifest = Bundle.open(gpu_bundle).manifest
    variant = manifest.components["unet"].variants["onnx-fp32"]
    assert records.find("onnxruntime", "unet", manifest.digests(variant)) is None


# -- OpenVINO --


def test_openvino_compiles_fixed_shapes(
    gpu_bundle: Path, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(OpenVinoEngine, "installed", classmethod(lambda cls: True))
    monkeypatch.setattr(OpenVinoEngine, "_open", lambda self, files, options: None)
    monkeypatch.setattr(OpenVinoEngine, "_release", lambda self: None)
    monkeypatch.setattr(OpenVinoEngine, "build", lambda self, shapes: compiled.append((self.component, shapes)) or True)
    gpu = ("--engine", "openvino", "--device", "gpu", "--precision", "fp32", "--quiet")
    status, _, err = run(capsys, gpu_bundle, *gpu)
    assert status == 2
    assert err.startswith("k22: error: engine openvino compiles fixed shapes; got --height 512:768:1024 ")
    assert not compiled
    fixed = ("--height", "64", "--width", "128", "--batch", "2")
    assert run(capsys, gpu_bundle, *gpu, *fixed)[0] == 0
    assert compiled == [
        ("unet", ((4, 9, 8, 16), (4,), (4, 6))),
        ("unet", ((2, 9, 8, 16), (2,), (2, 6))),
        ("movq_encoder", ((1, 3, 64, 128),)),
        ("movq_decoder", ((1, 4, 8, 16),)),
    ]


def test_a_device_that_the_engine_does_not_have(gpu_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, gpu_bundle, "--engine", "onnxruntime", "--device", "tpu")
    assert status == 2
    assert err.startswith(
        f"k22: error: engine onnxruntime runs on {', '.join(OnnxRuntimeEngine.devices)}; got device 'tpu'"
    )

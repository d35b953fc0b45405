"""The engine for TensorRT, without library and GPU: buffers, contexts and graphs, on fakes of both.

Every call of a fake is checked against the published APIs.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.build import build_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import Engine
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.profiles import Profile, Span
from kandinsky_runtime.engines.tensorrt import engine as module
from kandinsky_runtime.errors import EngineError, EngineNotBuilt, EngineUnavailable, TensorError
from tests.runtime import fake_bundle
from tests.runtime.fake_cuda import FakeCuda
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.vendor_api import CUDA_VERSIONS, TENSORRT_VERSIONS

WIDE = Profile(Span(64, 64, 128), Span(64, 96, 128), Span(1, 1, 2))
RNG = np.random.default_rng(3)


def build(bundle: Path, *profiles: Profile, **options: Any) -> None:
    build_bundle(Bundle.open(bundle), "tensorrt", profiles or [WIDE], name="b", **options)


def feeds(batch: int = 2, height: int = 8, width: int = 8) -> dict[str, np.ndarray]:
    return {
        "sample": RNG.standard_normal((batch, 9, height, width), np.float32),
        "timestep": np.full(batch, 7, np.float32),
        "image_embeds": RNG.standard_normal((batch, fake_bundle.WIDTH), np.float32),
    }


@pytest.fixture
def unet(gpu_bundle: Path, tensorrt: FakeTensorRT) -> Iterator[Engine]:
    build(gpu_bundle)
    with Graphs.open(gpu_bundle, "tensorrt") as graphs:
        yield graphs.engine("unet")


def check(unet: Engine, inputs: dict[str, np.ndarray]) -> None:
    """Compare a run with what the fake bundle's UNet computes."""
    copies = {name: array.copy() for name, array in inputs.items()}
    output = unet.run(inputs)["noise_pred"]
    np.testing.assert_array_equal(output, fake_bundle.unet(**inputs)["noise_pred"])
    for name, array in copies.items():
        np.testing.assert_array_equal(inputs[name], array)


# -- runs --


@pytest.mark.parametrize(("library", "bindings"), [*((item, CUDA_VERSIONS[0]) for item in TENSORRT_VERSIONS), (
    TENSORRT_VERSIONS[-1], CUDA_VERSIONS[-1],
)])  # fmt: skip
def test_every_version(
    library: str, bindings: str, gpu_bundle: Path, cuda: FakeCuda, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeCuda(bindings)
    monkeypatch.setattr(sys.modules["cuda.bindings"], "runtime", other.module)
    monkeypatch.setitem(sys.modules, "tensorrt", FakeTensorRT(other, library).module)
    build(gpu_bundle)
    with Graphs.open(gpu_bundle, "tensorrt") as graphs:
        for _ in range(3):
            check(graphs.engine("unet"), feeds())
    assert not other.allocated


def test_a_whole_run_equals_another_engine(
    gpu_bundle: Path, bundle: Path, fake_engine: Any, tensorrt: FakeTensorRT
) -> None:
    build(gpu_bundle)
    inputs: dict[str, Any] = {
        "image": RNG.integers(0, 256, (80, 64, 3), np.uint8),
        "mask_image": np.pad(np.full((16, 16), 255, np.uint8), ((8, 56), (8, 40))),
        "image_embeds": RNG.standard_normal(fake_bundle.WIDTH),
        "negative_image_embeds": RNG.standard_normal(fake_bundle.WIDTH),
        "num_inference_steps": 4,
        "seed": 1,
        "output_type": "np",
        "num_images_per_prompt": 2,
    }
    with InpaintPipeline.load(gpu_bundle, "tensorrt") as mine, InpaintPipeline.load(bundle, "fake") as other:
        np.testing.assert_array_equal(mine(**inputs).images, other(**inputs).images)
        assert mine.options.device == "cuda"
        assert mine.selection.precision == "fp16"
    assert not tensorrt.cuda.allocated
    assert not tensorrt.cuda.graphs
    assert not tensorrt.cuda.streams


def test_a_repeated_shape_runs_as_a_graph(unet: Engine, tensorrt: FakeTensorRT) -> None:
    (stream,) = tensorrt.cuda.streams.values()
    for run in range(1, 5):
        check(unet, feeds())
        assert (tensorrt.executed, stream.launches) == (run, run - 1)
    assert tensorrt.contexts == 1


def test_alternating_shapes_keep_their_graphs(unet: Engine, tensorrt: FakeTensorRT) -> None:
    for _ in range(3):
        for inputs in (feeds(2), feeds(1), feeds(4, 16, 16)):
            check(unet, inputs)
    assert tensorrt.contexts == 3
    assert len(tensorrt.cuda.graphs) == 3


def test_the_shape_that_was_unused_for_longest_is_freed(unet: Engine, tensorrt: FakeTensorRT) -> None:
    shapes = [(1, 8, 8), (2, 8, 8), (3, 8, 8), (4, 8, 8), (2, 16, 8)]
    for shape in [*shapes[:4], *shapes[:4], shapes[0], shapes[4], shapes[0]]:
        check(unet, feeds(*shape))
    assert tensorrt.contexts == module.MAX_CONTEXTS + 1
    assert len(tensorrt.cuda.graphs) == module.MAX_CONTEXTS - 1, (
        "the evicted shape's graph is freed, the new has none yet"
    )
    check(unet, feeds(*shapes[1]))
    assert tensorrt.contexts == module.MAX_CONTEXTS + 2


def test_what_cannot_be_captured_runs_without_a_graph(
    unet: Engine, tensorrt: FakeTensorRT, caplog: pytest.LogCaptureFixture
) -> None:
    tensorrt.failures["capture"] = ""
    for _ in range(4):
        check(unet, feeds())
    assert [record.getMessage() for record in caplog.records] == [
        "unet runs without a CUDA graph: TensorRT cannot run unet (TensorRT gives no reason)"
    ]


def test_each_tensor_is_copied_once(unet: Engine, tensorrt: FakeTensorRT) -> None:
    unet.run(feeds())
    tensorrt.cuda.copies.clear()
    inputs = feeds()
    output = unet.run(inputs)["noise_pred"]
    assert tensorrt.cuda.copies == [
        *(("cudaMemcpyHostToDevice", array.nbytes) for array in inputs.values()),
        ("cudaMemcpyDeviceToHost", output.nbytes),
    ]


def test_results_are_not_changed_by_later_runs(unet: Engine) -> None:
    first = unet.run(feeds())["noise_pred"]
    copy = first.copy()
    unet.run(feeds())
    np.testing.assert_array_equal(first, copy)


def test_the_gpu_that_was_requested(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    tensorrt.cuda.gpus = 2
    build(gpu_bundle, device="cuda:1")
    with Graphs.open(gpu_bundle, "tensorrt", device="cuda:1") as graphs:
        tensorrt.cuda.current = 0
        check(graphs.engine("unet"), feeds())
        assert tensorrt.cuda.current == 1


def test_memory_is_for_the_largest_shapes(unet: Engine, tensorrt: FakeTensorRT) -> None:
    sizes = sorted(array.nbytes for array in tensorrt.cuda.allocated.values())
    floats = [4 * 9 * 16 * 16, 4, 4 * fake_bundle.WIDTH, 4 * 8 * 16 * 16]
    assert sizes == sorted([*(4 * count for count in floats), 4096])


# -- shapes --


def test_a_shape_outside_the_profiles(unet: Engine) -> None:
    with pytest.raises(TensorError) as caught:
        unet.run(feeds(2, 24, 8))
    assert str(caught.value) == (
        "unet on tensorrt: `sample` is (2, 9, 24, 8); height must be 8 to 16 (64 to 128 px) for the engine that was"
        " built; build it for this shape: k22 build b --engine tensorrt --precision fp16 --height 64:64:192 --width"
        " 64:96:128 --batch 1:1:2"
    )
    check(unet, feeds())


def test_the_profile_is_chosen_by_shape(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(
        gpu_bundle, Profile(*[Span(64, 64, 64)] * 2, Span(1, 1, 1)), Profile(*[Span(128, 192, 256)] * 2, Span(1, 1, 1))
    )
    with Graphs.open(gpu_bundle, "tensorrt") as graphs:
        for shape in ((2, 8, 8), (1, 8, 8), (2, 32, 16), (1, 16, 24)):
            check(graphs.engine("unet"), feeds(*shape))
        with pytest.raises(TensorError, match=re.escape("`sample` is (2, 9, 8, 16); width must be 8 (64 px) for")):
            graphs.engine("unet").run(feeds(2, 8, 16))


# -- what can go wrong --


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ("load", "TensorRT cannot load the engine of unet (bad plan)"),
        ("refit", "TensorRT cannot put the weights of .*model-fp16.onnx into the engine of unet (bad plan)"),
        (
            "types",
            "the engine that was built for unet has image_embeds float16, .*; expected image_embeds float32, .*, as"
            " in the bundle's manifest; build it again: k22 build b --engine tensorrt --precision fp16 --height"
            " 64:64:128 --width 64:96:128 --batch 1:1:2",
        ),
    ],
)
def test_an_engine_that_cannot_be_loaded(failure: str, text: str, gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle)
    tensorrt.failures[failure] = "bad plan"
    with Graphs.open(gpu_bundle, "tensorrt") as graphs:
        with pytest.raises(EngineError, match=f"^{text.replace('(', '[(]').replace(')', '[)]')}$"):
            graphs.engine("unet")
        assert not tensorrt.cuda.allocated
        assert not tensorrt.cuda.streams


@pytest.mark.parametrize("failure", ["context", "run"])
def test_a_run_that_fails(failure: str, unet: Engine, tensorrt: FakeTensorRT) -> None:
    tensorrt.failures[failure] = ""
    with pytest.raises(EngineError, match=r"TensorRT .* unet \(TensorRT gives no reason\)"):
        unet.run(feeds())
    del tensorrt.failures[failure]
    check(unet, feeds())


def test_too_little_memory(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle)
    tensorrt.cuda.memory = 50_000
    with Graphs.open(gpu_bundle, "tensorrt") as graphs:
        with pytest.raises(
            EngineError, match=r"^the GPU has no 0\.00 GB of memory free for `noise_pred` of unet: choose a"
        ):
            graphs.engine("unet")
        assert not tensorrt.cuda.allocated


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fake: setattr(fake.module, "__version__", "11.9"), "TensorRT 11.4.0.106; this machine has 11.9"),
        (lambda fake: setattr(fake.cuda, "name", "NVIDIA Other"), "GPU NVIDIA Fake; this machine has NVIDIA Other"),
        (lambda fake: setattr(fake.cuda, "capability", (9, 0)), "compute capability 8.6; this machine has 9.0"),
    ],
)
def test_built_for_another_machine(change: Any, text: str, gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle)
    change(tensorrt)
    with Graphs.open(gpu_bundle, "tensorrt") as graphs, pytest.raises(EngineNotBuilt) as caught:
        graphs.engine("unet")
    assert str(caught.value) == (
        f"engine tensorrt: unet was built for {text}; build it again: k22 build b --engine tensorrt --precision fp16"
        " --height 64:64:128 --width 64:96:128 --batch 1:1:2"
    )


def damage(folder: Path) -> None:
    (folder / "engine.plan").write_bytes(b"{}")


@pytest.mark.parametrize("change", [damage, shutil.rmtree], ids=["damaged", "missing"])
def test_what_was_built_is_checked(change: Any, gpu_bundle: Path, tensorrt: FakeTensorRT, cache: Path) -> None:
    build(gpu_bundle)
    for folder in cache.glob("*/tensorrt/*"):
        change(folder)
    with Graphs.open(gpu_bundle, "tensorrt") as graphs, pytest.raises(EngineNotBuilt) as caught:
        graphs.engine("unet")
    assert str(caught.value).startswith("what was built for unet is missing or was changed; build it again: k22")


# -- choice --


def test_not_built(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    with pytest.raises(EngineNotBuilt) as caught:
        registry.select(Bundle.open(gpu_bundle).manifest, "tensorrt")
    assert str(caught.value) == (
        "engine tensorrt runs only what k22 build made, and unet of this bundle was not built on this machine: k22"
        " build BUNDLE --engine tensorrt"
    )


def test_the_precision_that_was_built(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    build(gpu_bundle, precision="fp32")
    manifest = Bundle.open(gpu_bundle).manifest
    assert registry.select(manifest, "tensorrt").variant == "onnx-fp32"
    with pytest.raises(EngineNotBuilt):
        registry.select(manifest, "tensorrt", "fp16")


def chosen(bundle: Path, **options: Any) -> str:
    return registry.select(Bundle.open(bundle).manifest, **options).engine.name


def test_auto_takes_it_first_if_it_was_built(gpu_bundle: Path, tensorrt: FakeTensorRT) -> None:
    assert chosen(gpu_bundle) != "tensorrt"
    build(gpu_bundle)
    assert chosen(gpu_bundle) == "tensorrt"
    assert chosen(gpu_bundle, device="cuda") == "tensorrt"
    assert chosen(gpu_bundle, device="cpu") != "tensorrt"


def test_auto_warns_if_it_was_built_but_the_library_is_missing(
    gpu_bundle: Path, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    build(gpu_bundle)
    monkeypatch.delitem(sys.modules, "tensorrt")
    with caplog.at_level(logging.WARNING):
        assert chosen(gpu_bundle) != "tensorrt"
    assert caplog.messages == [
        "engine tensorrt is not installed: pip install tensorrt cuda-bindings; trying the next engine"
    ]


def test_auto_does_not_warn_if_it_was_not_built(gpu_bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert chosen(gpu_bundle) != "tensorrt"
    assert not caplog.messages


def test_no_tensorrt_and_no_engine_that_was_built(gpu_bundle: Path, cache: Path) -> None:
    with pytest.raises(
        EngineUnavailable, match="^engine tensorrt is not installed: pip install tensorrt cuda-bindings$"
    ):
        chosen(gpu_bundle, name="tensorrt")

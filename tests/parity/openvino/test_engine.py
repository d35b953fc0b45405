"""OpenVINO compared with ONNX Runtime, and what its engine keeps in memory and on disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.spec import GraphSpec
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines import compile_cache, registry
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.engines.openvino import engine as module
from kandinsky_runtime.engines.openvino.engine import OpenVinoEngine
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.errors import EngineError, EngineUnavailable, UsageError
from scripts.goldens import trajectories as golden
from tests.damage import cut_off, empty, scramble
from tests.tolerances import GRAPH, TRAJECTORY

# bf16 keeps 8 bits of a number. A broken graph has less than 10 dB.
BF16_COMPONENT_PSNR = 30
COMPONENTS = ("unet", "movq_encoder", "movq_decoder")
# (batch, height, width) in latent cells
SHAPES = ((1, 8, 8), (2, 8, 16), (2, 24, 8), (3, 16, 16))

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")


def psnr(got: np.ndarray, want: np.ndarray) -> float:
    """In dB, relative to the range of the wanted values."""
    return decibels(want, got, float(np.ptp(want)))


@pytest.fixture(scope="module")
def bundle(case_bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(case_bundle("four_blocks"))


@pytest.fixture
def load(bundle: Bundle) -> Iterator[Callable[..., Any]]:
    """Load a component of the bundle on an engine."""
    made: list[Engine] = []

    def engine(component: str = "unet", kind: type[Engine] = OpenVinoEngine, **options: Any) -> Engine:
        entry = bundle.component(component)
        files = bundle.paths(entry.variants["onnx-fp32"])
        made.append(kind(component, entry.spec, options.pop("files", files), EngineOptions(**options)))
        return made[-1]

    yield engine
    for item in made:
        item.close()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of compiled shapes, with those of the CPU."""
    monkeypatch.setattr(module, "CACHED_DEVICES", frozenset({"CPU"}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kandinsky22-deploy" / "openvino"


def feeds_of(spec: GraphSpec, batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Random inputs (seeded); height and width in latent cells."""
    scale = 8 if any(item.name == "image" for item in spec.inputs) else 1
    sizes = {"batch": batch, "height": height * scale, "width": width * scale}
    rng = np.random.default_rng(batch)
    feeds = {item.name: rng.standard_normal(item.shape(sizes), np.float32) for item in spec.inputs}
    if "timestep" in feeds:
        feeds["timestep"][:] = 481
    return feeds


def only(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    (array,) = outputs.values()
    return array


def loaded_from_disk(engine: Any) -> list[bool]:
    return [
        bool(item.request.get_compiled_model().get_property("LOADED_FROM_CACHE")) for item in engine._compiled.values()
    ]


# -- numbers --


@pytest.mark.parametrize("component", COMPONENTS)
def test_fp32_agrees_with_onnxruntime(component: str, load: Callable[..., Any]) -> None:
    mine, other = load(component, precision="fp32"), load(component, OnnxRuntimeEngine)
    for shape in SHAPES:
        feeds = feeds_of(mine.spec, *shape)
        error = np.abs(only(mine.run(feeds)) - only(other.run(feeds))).max()
        assert error <= GRAPH, f"{component} {shape}: {error:.1e}"


def trajectory(bundle: Bundle, embeds: Path, engine: str, precision: str) -> np.ndarray:
    with InpaintPipeline.load(bundle, engine, precision) as pipeline, np.load(embeds) as arrays:
        output = pipeline(
            golden.picture(),
            golden.mask(),
            **{name: arrays[name] for name in arrays.files},
            num_inference_steps=golden.STEPS,
            guidance_scale=golden.GUIDANCE_SCALE,
            seed=golden.SEED,
            output_type="np",
            composite="none",
        )
    images: np.ndarray = output.images
    return images


def test_fp32_trajectory_agrees_with_onnxruntime(bundle: Bundle, case_checkpoint: Callable[[str], Path]) -> None:
    embeds = case_checkpoint("four_blocks") / "image_embeds.npz"
    mine, other = (trajectory(bundle, embeds, engine, "fp32") for engine in ("openvino", "onnxruntime"))
    assert np.abs(mine - other).max() <= TRAJECTORY


@needs_bf16
@pytest.mark.parametrize("component", COMPONENTS)
def test_bf16(component: str, load: Callable[..., Any]) -> None:
    mine, other = load(component, precision="bf16"), load(component, OnnxRuntimeEngine)
    feeds = feeds_of(mine.spec, 2, 16, 16)
    found = psnr(only(mine.run(feeds)), only(other.run(feeds)))
    print(f"bf16 {component}: {found:.1f} dB")
    assert BF16_COMPONENT_PSNR < found < np.inf, f"{component}: {found:.1f} dB"


@needs_bf16
def test_bf16_trajectory(bundle: Bundle, case_checkpoint: Callable[[str], Path]) -> None:
    embeds = case_checkpoint("four_blocks") / "image_embeds.npz"
    mine = trajectory(bundle, embeds, "openvino", "bf16")
    found = psnr(mine, trajectory(bundle, embeds, "onnxruntime", "fp32"))
    print(f"bf16 trajectory: {found:.1f} dB")
    assert np.isfinite(mine).all()
    assert 20 < found < np.inf, f"{found:.1f} dB"


# -- choice and refusal --


def test_auto_takes_it_first(bundle: Bundle) -> None:
    best = "bf16" if has_bf16() else "fp32"
    selection = registry.select(bundle.manifest)
    assert (selection.engine, selection.precision) == (OpenVinoEngine, best)
    assert registry.select(bundle.manifest, precision="fp32").engine is OpenVinoEngine


@pytest.mark.parametrize("cpu_has_bf16", [False, True])
@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        (["FP32", "FP16", "INT8"], "fp32"),
        (["FP32", "BF16"], "fp32"),
        (["FP16", "INT8"], "fp16"),
        (["INT8"], "fp32"),
        (None, "fp32"),
    ],
)
def test_the_default_precision_of_another_device_is_not_the_cpus(
    capabilities: list[str] | None, precision: str, cpu_has_bf16: bool, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: OpenVINO cannot say what the device computes in; loading the graph reports that."""
    import openvino

    def reported(core: Any, device: str, question: str) -> Any:
        assert (device, question) == ("GPU", "OPTIMIZATION_CAPABILITIES")
        if capabilities is None:
            raise RuntimeError("no such device")
        return capabilities

    monkeypatch.setattr(module, "has_bf16", lambda: cpu_has_bf16)
    monkeypatch.setattr(openvino.Core, "get_property", reported)
    assert OpenVinoEngine.preferred_precisions("gpu") == (precision,)
    on_cpu = ("bf16", "fp32") if cpu_has_bf16 else ("fp32",)
    assert OpenVinoEngine.preferred_precisions("cpu") == on_cpu


def test_device_that_it_does_not_know(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"runs on cpu, gpu, npu, .*; got device 'tpu'; OpenVINO finds .*CPU.* here$"):
        InpaintPipeline.load(bundle, engine="openvino", device="tpu")


def test_device_that_is_not_here(load: Callable[..., Any]) -> None:
    with pytest.raises(EngineUnavailable, match=r"OpenVINO finds no device 'npu' here; it finds .*CPU"):
        load(device="npu")


@pytest.mark.parametrize("device", ["CPU", "Cpu", "AUTO", "auto"])
def test_device_names_as_openvino_prints_them(device: str, load: Callable[..., Any]) -> None:
    """AUTO is the CPU on a machine whose OpenVINO reports no GPU."""
    assert load(device=device)._device == "CPU"


def test_a_second_gpu(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is opened on the device of that number: the first question about it names GPU.1."""
    import openvino

    class Reached(Exception):
        pass

    def reported(core: Any, device: str, question: str) -> Any:
        if device == "GPU.1":
            raise Reached(question)
        raise AssertionError(device)

    monkeypatch.setattr(openvino.Core, "available_devices", property(lambda core: ["CPU", "GPU.0", "GPU.1"]))
    monkeypatch.setattr(openvino.Core, "get_property", reported)
    with pytest.raises(EngineError, match="cannot be loaded by openvino: OPTIMIZATION_CAPABILITIES"):
        load(device="GPU.1")
    with pytest.raises(EngineUnavailable, match=r"no device 'gpu.2' here; it finds CPU, GPU.0, GPU.1"):
        load(device="GPU.2")
    assert OpenVinoEngine.device_name("AUTO") == "gpu.0"


def test_precision_that_the_device_does_not_have(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    ask = openvino.Core.get_property

    def without_fp16(core: Any, *question: Any) -> Any:
        return ["FP32"] if question[-1] == "OPTIMIZATION_CAPABILITIES" else ask(core, *question)

    monkeypatch.setattr(openvino.Core, "get_property", without_fp16)
    with pytest.raises(EngineUnavailable, match=r"^device cpu does not compute in fp16: choose precision fp32$"):
        load(precision="fp16")


def test_damaged_graph_is_found_at_once(load: Callable[..., Any], bundle: Bundle, tmp_path: Path) -> None:
    files = bundle.paths(bundle.component("unet").variants["onnx-fp32"])
    graph = tmp_path / "model.onnx"
    graph.write_bytes(files["graph"].read_bytes()[:1000])
    with pytest.raises(EngineError, match=r"unet cannot be loaded by openvino: "):
        load(files=files | {"graph": graph})


def test_threads(load: Callable[..., Any]) -> None:
    engine = load(threads=1)
    engine.run(feeds_of(engine.spec, *SHAPES[0]))
    ((request, _),) = engine._compiled.values()
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


# -- memory --


FIVE_SIZES = ((2, 2), (2, 3), (3, 2), (3, 3), (4, 2))


def compilations(engine: Any, sizes: Sequence[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes that an engine compiles while it runs these sizes in turn, three times."""
    compiled, obtain = [], engine._obtain

    def counted(shapes: Any) -> Any:
        compiled.append(shapes)
        return obtain(shapes)

    monkeypatch.setattr(engine, "_obtain", counted)
    for _ in range(3):
        for height, width in sizes:
            engine.run(feeds_of(engine.spec, 1, height, width))
    return compiled


def test_mixed_sizes_are_compiled_once_each(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load("movq_decoder")
    assert len(compilations(engine, FIVE_SIZES, monkeypatch)) == len(engine._compiled) == len(FIVE_SIZES)


def test_the_last_shape_is_kept_however_small_the_limit(
    load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = load("movq_decoder", shape_memory=1)
    assert len(compilations(engine, FIVE_SIZES[:2], monkeypatch)) == 6
    assert len(engine._compiled) == 1
    (record,) = caplog.records
    assert "movq_decoder is compiled again for a shape that was dropped" in record.message
    assert "--shape-memory" in record.message


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured on Linux")
def test_what_a_shape_costs_is_measured(load: Callable[..., Any]) -> None:
    engine = load("unet", precision="fp32")
    for sizes in ((1, 8, 8), (1, 8, 16)):
        before = private_memory()
        engine.run(feeds_of(engine.spec, *sizes))
        engine.free_scratch_memory()
        grown = private_memory() - before
    print(f"a shape of the tiny UNet: {engine._compiled.cost:,} bytes; the process grew by {grown:,}")
    assert 0 < engine._compiled.cost < 64 << 20


def test_an_engine_without_scratch_memory_runs_on(load: Callable[..., Any]) -> None:
    engine = load("movq_decoder", precision="fp32")
    feeds = feeds_of(engine.spec, 1, 64, 64)  # blocks so large that the C library returns each to the system
    first = only(engine.run(feeds))
    before = private_memory()
    engine.free_scratch_memory()
    assert before - private_memory() > first.nbytes, (
        "the maps of the last layers are as large as the picture and larger"
    )
    np.testing.assert_array_equal(only(engine.run(feeds)), first)
    engine.close()
    engine.free_scratch_memory()


def test_later_runs_do_not_change_results(load: Callable[..., Any]) -> None:
    engine = load("movq_decoder", precision="fp32")
    feeds = feeds_of(engine.spec, 1, 4, 4)
    first = only(engine.run(feeds))
    copy = first.copy()
    engine.run({name: -array for name, array in feeds.items()})
    np.testing.assert_array_equal(first, copy)


def test_threads_share_an_engine(load: Callable[..., Any]) -> None:
    engine = load("movq_decoder", precision="fp32")
    feeds = [feeds_of(engine.spec, 1, side, 2) for side in (1, 2, 3, 1, 2, 3)]
    want = [only(engine.run(item)) for item in feeds]
    got: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i, item=item: got.update({i: only(engine.run(item))}))
        for i, item in enumerate(feeds)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, array in enumerate(want):
        np.testing.assert_array_equal(got[i], array)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux reports the resident pages of a mapping")
def test_mapped_weights_do_not_stay_resident(load: Callable[..., Any], bundle: Bundle) -> None:
    weights = bundle.paths(bundle.component("unet").variants["onnx-fp32"])["weights"]
    engine = load(precision="fp32")
    feeds = feeds_of(engine.spec, *SHAPES[1])
    engine._request(tuple(feeds[item.name].shape for item in engine.spec.inputs))
    assert resident(weights) < weights.stat().st_size / 10
    first = only(engine.run(feeds))  # reads some of them from the map
    np.testing.assert_array_equal(only(engine.run(feeds)), first)


def private_memory() -> int:
    """Bytes of this process's memory that do not come from a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def resident(file: Path) -> int:
    """Bytes of a mapped file in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key = line.split()[0]
        if "-" in key:
            inside = line.endswith(str(file.resolve()))
        elif inside and key == "Rss:":
            total += int(line.split()[1]) * 1024
    return total


# -- disk --


def test_a_run_on_the_cpu_writes_nothing(
    load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    engine = load("movq_decoder")
    engine.run(feeds_of(engine.spec, 1, 1, 1))
    assert not list(tmp_path.rglob("*"))


def test_second_engine_loads_from_disk(disk: Path, load: Callable[..., Any]) -> None:
    first, second = load(precision="fp32"), load(precision="fp32")
    feeds = feeds_of(first.spec, *SHAPES[0])
    want = only(first.run(feeds))
    np.testing.assert_array_equal(only(second.run(feeds)), want)
    assert loaded_from_disk(first) == [False]
    assert loaded_from_disk(second) == [True]
    assert len(list(disk.iterdir())) == 1


@pytest.mark.parametrize("damage", [cut_off, scramble, empty, Path.unlink])
@pytest.mark.parametrize("kind", ["*.blob", "sha256.json"])
def test_a_damaged_entry_is_rebuilt(
    kind: str, damage: Callable[[Path], None], disk: Path, load: Callable[..., Any]
) -> None:
    first, second, third = (load("movq_decoder", precision="fp32") for _ in range(3))
    feeds = feeds_of(first.spec, 1, 2, 2)
    want = only(first.run(feeds))
    (file,) = disk.rglob(kind)
    file.chmod(0o600)
    damage(file)
    np.testing.assert_array_equal(only(second.run(feeds)), want)
    assert loaded_from_disk(second) == [False]
    np.testing.assert_array_equal(only(third.run(feeds)), want)
    assert loaded_from_disk(third) == [True]


def test_changed_weights_are_never_taken_for_the_old_ones(
    disk: Path, load: Callable[..., Any], bundle: Bundle, tmp_path: Path
) -> None:
    """With the same path, size and time of change, as after unpacking another checkpoint's archive over it."""
    files = bundle.paths(bundle.component("movq_decoder").variants["onnx-fp32"])
    copies = {role: tmp_path / path.name for role, path in files.items()}
    for role, path in files.items():
        copies[role].write_bytes(path.read_bytes())
    first = load("movq_decoder", files=copies, precision="fp32")
    feeds = feeds_of(first.spec, 1, 2, 2)
    before = only(first.run(feeds))
    times = copies["weights"].stat()
    first.close()
    other = tmp_path / "other"
    other.write_bytes((np.frombuffer(copies["weights"].read_bytes(), np.float32) * np.float32(0.5)).tobytes())
    other.replace(copies["weights"])
    os.utime(copies["weights"], ns=(times.st_atime_ns, times.st_mtime_ns))
    second = load("movq_decoder", files=copies, precision="fp32")
    after = only(second.run(feeds))
    assert loaded_from_disk(second) == [False]
    assert np.abs(after - before).max() > GRAPH


def test_every_setting_has_an_entry_of_its_own(disk: Path, load: Callable[..., Any]) -> None:
    engine = load("movq_decoder", precision="fp32")
    for width in (1, 2):
        engine.run(feeds_of(engine.spec, 1, 1, width))
    engine._compiler.settings["PERFORMANCE_HINT"] = "THROUGHPUT"
    engine._compiled.clear()
    engine.run(feeds_of(engine.spec, 1, 1, 1))
    assert len(list(disk.iterdir())) == 3


def test_built_shapes_are_loaded(disk: Path, load: Callable[..., Any]) -> None:
    first, second = load("movq_decoder", precision="fp32"), load("movq_decoder", precision="fp32")
    feeds = feeds_of(first.spec, 1, 2, 2)
    shapes = tuple(feeds[item.name].shape for item in first.spec.inputs)
    assert first.build(shapes)
    assert not first.build(shapes)
    second.run(feeds)
    assert loaded_from_disk(second) == [True]


def test_a_device_that_writes_nothing(disk: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load("movq_decoder", precision="fp32")
    monkeypatch.setattr(engine, "_compile_in", lambda entry, shapes: engine._compiler.compile(shapes))
    with pytest.raises(EngineError, match="movq_decoder: OpenVINO wrote nothing to disk for device CPU"):
        engine.build(((1, 4, 2, 2),))


def test_the_number_of_entries_is_limited(
    disk: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache, "MAX_ENTRIES", 2)
    engine = load("movq_decoder")
    engine.run(feeds_of(engine.spec, 1, 1, 1))
    (oldest,) = disk.iterdir()
    os.utime(oldest, (0, 0))
    for width in (2, 3):
        engine.run(feeds_of(engine.spec, 1, 1, width))
    assert len(list(disk.iterdir())) == 2
    assert not oldest.exists()


def test_the_bytes_of_entries_are_limited(
    disk: Path, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache, "MAX_BYTES", 1)
    engine = load("movq_decoder")
    for width in (1, 2):
        engine.run(feeds_of(engine.spec, 1, 1, width))
        (entry,) = disk.iterdir()
        os.utime(entry, (0, 0))


def test_cache_that_cannot_be_written_costs_time_only(disk: Path, load: Callable[..., Any]) -> None:
    disk.parent.mkdir(parents=True)
    disk.write_text("a file where the folder should be")
    engine = load("movq_decoder")
    engine.run(feeds_of(engine.spec, 1, 1, 1))
    assert loaded_from_disk(engine) == [False]

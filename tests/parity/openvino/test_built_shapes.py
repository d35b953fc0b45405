"""What `k22 build` keeps for OpenVINO on the CPU, compared with what is compiled without it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.build import build_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.cli import main
from kandinsky_runtime.engines.base import EngineOptions
from kandinsky_runtime.engines.compile_cache import new_entry
from kandinsky_runtime.engines.openvino import built_shapes, compiler
from kandinsky_runtime.engines.openvino.compiler import Compiler
from kandinsky_runtime.engines.openvino.engine import OpenVinoEngine
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.engines.profiles import Profile, read_profiles
from kandinsky_runtime.errors import Kandinsky22Error
from kandinsky_runtime.prior.pipeline import PriorPipeline
from scripts.goldens.prior import INPAINT
from tests.damage import cut_off, empty, scramble

pytest.importorskip("openvino")

PRECISIONS = [
    "fp32",
    pytest.param(
        "bf16", marks=pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16"), id="bf16"
    ),
]
SHAPES = {
    "unet": ((2, 9, 8, 16), (2,), (2, 32)),
    "movq_encoder": ((1, 3, 64, 128),),
    "movq_decoder": ((1, 4, 8, 16),),
}
DECODED = SHAPES["movq_decoder"]
WIDER = ((1, 4, 8, 24),)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all entries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kandinsky22-deploy" / "openvino"


@pytest.fixture(scope="module")
def bundle(case_bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(case_bundle("four_blocks"))


@pytest.fixture
def load(bundle: Bundle, disk: Path) -> Iterator[Callable[..., OpenVinoEngine]]:
    """A component on a new engine."""
    made: list[OpenVinoEngine] = []

    def engine(component: str = "movq_decoder", of: Bundle = bundle, **options: Any) -> OpenVinoEngine:
        entry = of.component(component)
        variant = entry.variants["onnx-fp32"]
        chosen = EngineOptions(**({"precision": "fp32"} | options))
        made.append(OpenVinoEngine(component, entry.spec, of.paths(variant), chosen, of.manifest.digests(variant)))
        return made[-1]

    yield engine
    for item in made:
        item.close()


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The shapes for which a graph was compiled."""
    shapes: list[object] = []
    real = Compiler.specialised

    def noting(self: Compiler, model: Any, wanted: Any) -> Any:
        shapes.append(wanted)
        return real(self, model, wanted)

    monkeypatch.setattr(Compiler, "specialised", noting)
    return shapes


def output(engine: OpenVinoEngine, shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    feeds = {
        item.name: rng.standard_normal(shape, np.float32)
        for item, shape in zip(engine.spec.inputs, shapes, strict=True)
    }
    if "timestep" in feeds:
        feeds["timestep"][:] = 481
    (array,) = engine.run(feeds).values()
    return array


def entries(disk: Path, kind: str) -> list[Path]:
    """The entries that have a file of this name, the oldest first."""
    return sorted((file.parent for file in disk.rglob(kind)), key=lambda entry: entry.stat().st_mtime)


# -- numbers --


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("component", sorted(SHAPES))
def test_a_loaded_shape_computes_the_same_bits(
    component: str, precision: str, load: Callable[..., OpenVinoEngine], compiled: list[object]
) -> None:
    shapes = SHAPES[component]
    want = output(load(component, precision=precision), shapes)
    assert load(component, precision=precision).build(shapes)
    compiled.clear()
    np.testing.assert_array_equal(output(load(component, precision=precision), shapes), want)
    assert compiled == [], "nothing was compiled"


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
def test_rewritten_weights_compute_the_same_bits(
    load: Callable[..., OpenVinoEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the rewrites for which the test's models are too small: parts and sums of kernels."""
    from kandinsky_runtime.engines.openvino import doubled_convolutions, split_convolutions

    monkeypatch.setattr(compiler, "has_amx", lambda: True)
    monkeypatch.setattr(doubled_convolutions, "LEAST_CELLS", 1)
    for name, value in {"PART": 16, "BAD_BLOCK": 64, "INPUTS": range(1, 1000), "LEAST_CELLS": 1}.items():
        monkeypatch.setattr(split_convolutions, name, value)
    cut: list[int] = []
    real = compiler.split_badly_cut_convolutions
    monkeypatch.setattr(
        compiler,
        "split_badly_cut_convolutions",
        lambda model: (outcome := real(model), cut.append(outcome.rewritten))[0],
    )
    for component, shapes in SHAPES.items():
        want = output(load(component, precision="bf16"), shapes)
        assert load(component, precision="bf16").build(shapes)
        np.testing.assert_array_equal(output(load(component, precision="bf16"), shapes), want)
    assert all(cut[i] == cut[i + 1] for i in range(0, 6, 2))
    assert sum(cut) > 0


@pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")
def test_bf16_takes_half_the_disk(bundle: Bundle, load: Callable[..., OpenVinoEngine], disk: Path) -> None:
    load("unet", precision="bf16").build(SHAPES["unet"])
    (weights,) = disk.rglob("graph.bin")
    whole = bundle.paths(bundle.component("unet").variants["onnx-fp32"])["weights"].stat().st_size
    assert 0.5 * whole < weights.stat().st_size < 0.6 * whole


# -- entries --


def test_shapes_share_the_weights(load: Callable[..., OpenVinoEngine], disk: Path) -> None:
    engine = load()
    assert [engine.build(shapes) for shapes in (DECODED, WIDER, DECODED)] == [True, True, False]
    (weights,) = disk.rglob("graph.bin")
    blobs = list(disk.rglob("shape.blob"))
    assert len(blobs) == 2
    assert max(blob.stat().st_size for blob in blobs) < weights.stat().st_size / 2


def test_other_shapes_are_compiled_and_not_kept(
    load: Callable[..., OpenVinoEngine], disk: Path, compiled: list[object]
) -> None:
    want = output(load(), WIDER)
    load().build(DECODED)
    compiled.clear()
    np.testing.assert_array_equal(output(load(), WIDER), want)
    assert compiled == [WIDER]
    assert len(entries(disk, "shape.blob")) == 1


def test_one_engine_builds_and_runs(load: Callable[..., OpenVinoEngine], compiled: list[object]) -> None:
    engine = load()
    engine.build(DECODED)
    compiled.clear()
    output(engine, DECODED)
    output(engine, WIDER)
    assert compiled == [WIDER]


def test_any_number_of_threads_loads_it(load: Callable[..., OpenVinoEngine], compiled: list[object]) -> None:
    load().build(DECODED)
    compiled.clear()
    engine = load(threads=1)
    output(engine, DECODED)
    assert compiled == []
    ((request, _),) = engine._compiled.values()
    assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_bundle_may_move(
    load: Callable[..., OpenVinoEngine], bundle: Bundle, tmp_path: Path, compiled: list[object]
) -> None:
    load().build(DECODED)
    compiled.clear()
    moved = Bundle.open(shutil.copytree(bundle.root, tmp_path / "moved"))
    output(load(of=moved), DECODED)
    assert compiled == []


def test_an_engine_without_scratch_memory_runs_on(load: Callable[..., OpenVinoEngine]) -> None:
    load().build(DECODED)
    engine = load()
    first = output(engine, DECODED)
    engine.free_scratch_memory()
    np.testing.assert_array_equal(output(engine, DECODED), first)


# -- stale and damaged --


@pytest.mark.parametrize("part", ["version", "setting", "code", "amx"])
def test_stale_entries_are_not_used(
    part: str, load: Callable[..., OpenVinoEngine], compiled: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    load().build(DECODED)
    engine = load()
    match part:
        case "version":
            engine._compiler.version = "another"
        case "setting":
            engine._compiler.settings["PERFORMANCE_HINT"] = "THROUGHPUT"  # type: ignore[index]
        case "code":
            monkeypatch.setattr(compiler, "_code", lambda: ["0" * 64])
        case "amx":
            present = compiler.has_amx()
            monkeypatch.setattr(compiler, "has_amx", lambda: not present)
    compiled.clear()
    output(engine, DECODED)
    assert compiled == [DECODED]


def test_changed_weights_are_never_taken_for_the_old_ones(
    load: Callable[..., OpenVinoEngine], bundle: Bundle, tmp_path: Path, compiled: list[object]
) -> None:
    """Without their sha256, and with the same path, size and time of change."""
    entry = bundle.component("movq_decoder")
    copies = {
        role: Path(shutil.copy2(path, tmp_path)) for role, path in bundle.paths(entry.variants["onnx-fp32"]).items()
    }
    with OpenVinoEngine("movq_decoder", entry.spec, copies, EngineOptions()) as engine:
        engine.build(DECODED)  # type: ignore[attr-defined]
        before = output(engine, DECODED)  # type: ignore[arg-type]
    times = copies["weights"].stat()
    other = tmp_path / "other"
    other.write_bytes((np.frombuffer(copies["weights"].read_bytes(), np.float32) * np.float32(0.5)).tobytes())
    other.replace(copies["weights"])
    os.utime(copies["weights"], ns=(times.st_atime_ns, times.st_mtime_ns))
    compiled.clear()
    with OpenVinoEngine("movq_decoder", entry.spec, copies, EngineOptions()) as engine:
        after = output(engine, DECODED)  # type: ignore[arg-type]
    assert compiled == [DECODED]
    assert np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("damage", [cut_off, scramble, empty, Path.unlink])
@pytest.mark.parametrize("entry_of", ["graph.bin", "shape.blob"])
@pytest.mark.parametrize("itself", [True, False], ids=["file", "seal"])
def test_a_damaged_entry_is_rebuilt(
    itself: bool,
    entry_of: str,
    damage: Callable[[Path], None],
    load: Callable[..., OpenVinoEngine],
    disk: Path,
    compiled: list[object],
) -> None:
    load().build(DECODED)
    want = output(load(), DECODED)
    (entry,) = entries(disk, entry_of)
    file = entry / (entry_of if itself else "sha256.json")
    file.chmod(0o600)
    damage(file)
    np.testing.assert_array_equal(output(load(), DECODED), want)
    compiled.clear()
    np.testing.assert_array_equal(output(load(), DECODED), want)
    assert compiled == [], "it was rebuilt"
    assert len(list(disk.iterdir())) == 2


def test_a_file_that_openvino_refuses_is_rebuilt(
    load: Callable[..., OpenVinoEngine], disk: Path, compiled: list[object]
) -> None:
    """Its sha256 is right, like that of a file from another build of the same version."""
    load().build(DECODED)
    want = output(load(), DECODED)
    (entry,) = entries(disk, "shape.blob")
    with new_entry(disk, entry.name) as draft:
        (draft / "shape.blob").write_bytes(b"not what OpenVINO wrote")
    for shapes in ([DECODED], []):
        compiled.clear()
        np.testing.assert_array_equal(output(load(), DECODED), want)
        assert compiled == shapes


def test_weights_that_cannot_be_written_again_cost_time_only(
    load: Callable[..., OpenVinoEngine],
    disk: Path,
    compiled: list[object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    load().build(DECODED)
    want = output(load(), DECODED)
    (entry,) = entries(disk, "graph.bin")
    cut_off(entry / "graph.bin")
    monkeypatch.setattr(built_shapes.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
    compiled.clear()
    np.testing.assert_array_equal(output(load(), DECODED), want)
    assert compiled == [DECODED]
    assert "0.0 GB are free" in caplog.text


# -- the command --


def fixed(*sides: str) -> tuple[Profile, ...]:
    return tuple(read_profiles(list(sides), list(sides), ["1"]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_build_then_inpaint(
    precision: str, bundle: Bundle, case_checkpoint: Callable[[str], Path], disk: Path, compiled: list[object]
) -> None:
    from kandinsky_runtime.decoder.inpaint import InpaintPipeline

    embeds = dict(np.load(case_checkpoint("four_blocks") / "image_embeds.npz"))
    rng = np.random.default_rng(0)
    picture, mask = rng.integers(0, 256, (64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255

    def inpainted() -> np.ndarray:
        with InpaintPipeline.load(bundle, "openvino", precision) as pipeline:
            images: np.ndarray = pipeline(
                picture, mask, **embeds, num_inference_steps=2, seed=0, output_type="np"
            ).images
        return images

    want = inpainted()
    done = build_bundle(bundle, "openvino", fixed("64"), precision=precision)
    assert [(item.component, item.built) for item in done] == [
        ("unet", True), ("movq_encoder", True), ("movq_decoder", True),
    ]  # fmt: skip
    assert not any(item.built for item in build_bundle(bundle, "openvino", fixed("64"), precision=precision))
    compiled.clear()
    np.testing.assert_array_equal(inpainted(), want)
    assert compiled == []


def test_graphs_of_texts_are_left_out_and_run(
    prior_bundle: Callable[[str], Path], disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = prior_bundle(INPAINT)
    size = ["--height", "64", "--width", "64", "--batch", "1"]
    assert main(["build", str(folder), "--engine", "openvino", *size, "--precision", "fp32", "--quiet"]) == 0
    states = {line.split()[0]: line[14:] for line in capsys.readouterr().out.splitlines()}
    reason = "left out: it takes texts of any length, and is compiled at its first run"
    assert states["text_encoder"] == states["prior"] == reason
    assert all(states[name].startswith("built in ") for name in ("unet", "movq_encoder", "movq_decoder"))
    with PriorPipeline.load(folder, "openvino", "fp32") as pipeline:
        assert pipeline("a hat", num_inference_steps=2, seed=0).image_embeds.shape[0] == 1


def test_a_full_disk_is_reported_before_anything_is_written(
    bundle: Bundle, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(built_shapes.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 1000))  # type: ignore[attr-defined]
    with pytest.raises(
        Kandinsky22Error,
        match=r"what is built of unet cannot be written to disk: .* 0\.0 GB are free: '.*/openvino'",
    ):
        build_bundle(bundle, "openvino", fixed("64"), precision="fp32")
    assert not list(disk.iterdir())


def test_an_openvino_that_cannot_load_is_reported(bundle: Bundle, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such setting")

    monkeypatch.setattr(built_shapes.BuiltShapes, "_load", fail)
    with pytest.raises(Kandinsky22Error, match="unet cannot be built by openvino: no such setting"):
        build_bundle(bundle, "openvino", fixed("64"), precision="fp32")
    assert not entries(disk, "shape.blob")


def test_a_failure_of_openvino_is_reported(bundle: Bundle, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Compiler, model: Any, shapes: Any) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(Compiler, "specialised", fail)
    with pytest.raises(Kandinsky22Error, match="unet cannot be built by openvino: no such layer"):
        build_bundle(bundle, "openvino", fixed("64"), precision="fp32")
    assert len(list(disk.iterdir())) == 1, "the weights are whole, and stay"

"""Engines: which one is chosen, and what every one of them promises whatever its vendor does."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kandinsky_runtime.bundle.manifest import Manifest
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.bundle.spec import GraphSpec, Range, TensorSpec
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.engines.paddle.engine import PaddleEngine
from kandinsky_runtime.errors import (
    EngineError,
    EngineUnavailable,
    Kandinsky22Error,
    NonFiniteError,
    TensorError,
    UsageError,
)
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine

SPEC = GraphSpec(
    inputs=(TensorSpec("x", "float32", ("batch", "width")),),
    outputs=(TensorSpec("y", "float32", ("batch", "2*width")),),
    ranges={"batch": Range(), "width": Range(max=8)},
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Doubler(Engine):
    """y = [x, x]; `act` may do something else."""

    name = "doubler"
    library = "numpy"
    distribution = "numpy"
    variants: ClassVar[Mapping[str, str]] = {"fp32": "doubled"}
    act: ClassVar[Callable[..., Any]] = staticmethod(lambda x: {"y": np.concatenate([x, x], axis=1)})
    released = 0

    def _open(self, files: Mapping[str, Path], options: EngineOptions) -> None:
        for act in files.values():
            act()  # type: ignore[operator]

    def _run(self, feeds: Any) -> Any:
        return type(self).act(**feeds)

    def _release(self) -> None:
        self.released += 1


def doubler(options: EngineOptions = EngineOptions()) -> Doubler:  # noqa: B008
    return Doubler("part", SPEC, {}, options)


def failing(error: BaseException) -> Callable[..., Any]:
    def act(**_: Any) -> Any:
        raise error

    return act


# -- run --


def test_run() -> None:
    np.testing.assert_array_equal(doubler().run({"x": X})["y"], np.concatenate([X, X], axis=1))


def test_feeds_become_contiguous_and_are_never_modified(monkeypatch: pytest.MonkeyPatch) -> None:
    got = []
    act = Doubler.act
    monkeypatch.setattr(Doubler, "act", staticmethod(lambda x: got.append(x) or act(x)))
    x = np.asfortranarray(X)
    doubler().run({"x": x})
    assert got[0].flags.c_contiguous
    np.testing.assert_array_equal(x, X)
    doubler().run({"x": X})
    assert got[1] is X, "a contiguous array is not copied"


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        ({}, "part on doubler, step 2 takes the inputs x; got none"),
        ({"x": X[0]}, "part on doubler, step 2: `x` is (3,); expected 2 dimensions, x float32 (batch, width)"),
        ({"x": np.zeros((1, 9), np.float32)}, "part on doubler, step 2: `x` is (1, 9); width must be at most 8"),
    ],
)
def test_feeds_that_do_not_fit(feeds: dict[str, Any], text: str) -> None:
    with pytest.raises(TensorError) as caught:
        doubler().run(feeds, during="step 2")
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("outputs", "error", "text"),
    [
        ({}, EngineError, "part on doubler: returned no `y`; the manifest does not fit the graph: export the bundle"),
        ({"y": [1.0]}, EngineError, "part on doubler: returned no `y`"),
        ({"y": X}, EngineError, "part on doubler: `y` came out as float32 (2, 3); expected float32 (2, 6)"),
        (
            {"y": np.zeros((2, 6), np.float16)},
            EngineError,
            "part on doubler: `y` came out as float16 (2, 6); expected float32 (2, 6)",
        ),
        (
            {"y": np.array([[0, 1, np.nan, np.inf, -np.inf, 5]] * 2, np.float32)},
            NonFiniteError,
            "part on doubler: 6 of the 12 values of `y` are NaN or infinite: check the checkpoint and the",
        ),
    ],
)
def test_outputs_that_do_not_fit(
    outputs: dict[str, Any], error: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Doubler, "act", staticmethod(lambda x: outputs))
    with pytest.raises(error, match=re.escape(text)):
        doubler().run({"x": X})


@pytest.mark.parametrize("error", [RuntimeError("a\nb"), ValueError(), KeyError("k"), MemoryError(), ImportError("no")])
def test_vendor_errors_become_ours(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "act", failing(error))
    with pytest.raises(EngineError, match="part on doubler, step 2 failed: .+") as caught:
        doubler().run({"x": X}, during="step 2")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [EngineUnavailable("too old"), KeyboardInterrupt()])
def test_other_errors_pass(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "act", failing(error))
    engine = doubler()
    with pytest.raises(type(error)) as caught:
        engine.run({"x": X})
    assert caught.value is error
    engine.close()  # no lock is held any more


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("bad graph"), EngineError, "part cannot be loaded by doubler: bad graph"),
        (MemoryError(), EngineError, "part cannot be loaded by doubler: MemoryError"),
        (
            ImportError("libx.so"),
            EngineUnavailable,
            "engine doubler: numpy cannot be imported (libx.so): pip install numpy",
        ),
        (UsageError("as it is"), UsageError, "as it is"),
    ],
)
def test_failure_to_load(error: Exception, kind: type[Kandinsky22Error], text: str) -> None:
    with pytest.raises(kind) as caught:
        Doubler("part", SPEC, {"graph": failing(error)}, EngineOptions())  # type: ignore[dict-item]
    assert str(caught.value) == text


def test_files_that_the_variant_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "roles", ("graph", "weights"))
    with pytest.raises(EngineError) as caught:
        Doubler("part", SPEC, {"graph": Path("g")}, EngineOptions())
    assert str(caught.value) == (
        "engine doubler needs the files graph, weights of part; the bundle's variant has no weights: export the bundle"
        " again"
    )


def test_close_twice_then_run() -> None:
    with doubler() as engine:
        engine.run({"x": X})
    engine.close()
    assert engine.released == 1
    with pytest.raises(EngineError, match="part on doubler: the engine is closed; load the graph again"):
        engine.run({"x": X})


def test_runs_of_several_threads_follow_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    running, together = threading.Lock(), []

    def act(x: np.ndarray) -> dict[str, np.ndarray]:
        together.append(not running.acquire(blocking=False))
        threading.Event().wait(0.002)
        running.release()
        return {"y": np.concatenate([x, x], axis=1)}

    monkeypatch.setattr(Doubler, "act", staticmethod(act))
    engine = doubler()
    threads = [threading.Thread(target=engine.run, args=({"x": X},)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [False] * 8


# -- options --


def test_threads() -> None:
    assert EngineOptions().thread_count >= 1
    assert EngineOptions(threads=np.int64(3)).thread_count == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_no_threads(threads: Any) -> None:
    with pytest.raises(UsageError, match="threads is .*; expected a whole number of at least 1"):
        EngineOptions(threads=threads)


@pytest.mark.parametrize("device", [None, 0, ["cpu"]])
def test_no_device(device: Any) -> None:
    with pytest.raises(UsageError, match="device is .*; expected a name such as 'cpu'"):
        EngineOptions(device=device)


def test_unknown_device() -> None:
    with pytest.raises(UsageError, match="engine doubler runs on cpu; got device 'gpu'"):
        doubler(EngineOptions(device="gpu"))


# -- what is installed --


@pytest.mark.parametrize("library", ["no_such_library", "no_such_library.part", "numpy.no_such_part", "."])
def test_not_installed(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Doubler, "library", library)
    assert not Doubler.installed()


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Doubler.version() == np.__version__
    monkeypatch.setattr(Doubler, "library", "pytest")
    monkeypatch.setattr(Doubler, "distribution", "pytest-under-another-name")
    assert Doubler.version() == pytest.__version__
    monkeypatch.setattr(Doubler, "library", "no_such_library")
    assert Doubler.version() == "unknown"


def test_built_in_engines_name_what_they_need() -> None:
    assert registry.engine_class("onnxruntime") is OnnxRuntimeEngine
    assert registry.engine_class("paddle") is PaddleEngine
    assert OnnxRuntimeEngine.installed()
    assert OnnxRuntimeEngine.version() == importlib.metadata.version("onnxruntime")


def test_damaged_graph_for_onnxruntime(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=re.escape("unet cannot be loaded by onnxruntime: [ONNXRuntimeError] : ")):
        OnnxRuntimeEngine("unet", SPEC, {"graph": graph, "weights": graph}, EngineOptions())


# -- entry points and choice --


@pytest.fixture
def two_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two of the built-in engines."""
    some = {name: registry._BUILT_IN[name] for name in ("onnxruntime", "paddle")}
    monkeypatch.setattr(registry, "_BUILT_IN", some)


def test_engine_of_another_package(fake_engine: type[FakeEngine], two_built_in: None) -> None:
    assert registry.names() == ("onnxruntime", "paddle", "fake")
    assert registry.engine_class("fake") is fake_engine


@pytest.mark.parametrize("name", ["nonsense", "", "AUTO", None, 3, []])
def test_unknown_engine(name: Any, fake_engine: type[FakeEngine], two_built_in: None) -> None:
    with pytest.raises(UsageError) as caught:
        registry.select(fake_bundle.manifest(), name)
    assert str(caught.value) == f"there is no engine {name!r}; choose from auto, onnxruntime, paddle, fake"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("no_such_module:Engine", r"cannot be loaded from no_such_module:Engine \(No module named 'no_such_module'\)"),
        ("numpy:no_such_name", "cannot be loaded from numpy:no_such_name"),
        ("antigravity_that_fails", "cannot be loaded from antigravity_that_fails .*division by zero"),
        ("numpy:ndarray", "numpy:ndarray is no subclass of Engine"),
        ("numpy:zeros", "numpy:zeros is no subclass of Engine"),
        ("tests.runtime.fake_bundle:FakeEngine", "FakeEngine calls itself 'fake'; the names must be equal"),
    ],
)
def test_broken_package(
    value: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_built_in: None
) -> None:
    (tmp_path / "antigravity_that_fails.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(fake_bundle.install(tmp_path, {"broken": value, "onnxruntime": value})))
    with pytest.raises(EngineUnavailable, match=f"^engine broken.*{text}"):
        registry.engine_class("broken")
    assert registry.names() == ("onnxruntime", "paddle", "broken"), "a built-in name cannot be taken"
    assert registry.engine_class("onnxruntime") is OnnxRuntimeEngine


@pytest.fixture
def installed(
    monkeypatch: pytest.MonkeyPatch, fake_engine: type[FakeEngine], two_built_in: None
) -> Callable[..., None]:
    """Pretend that only these engines are installed."""

    def set_installed(*names: str) -> None:
        for engine in (OnnxRuntimeEngine, PaddleEngine, FakeEngine):
            monkeypatch.setattr(engine, "installed", classmethod(lambda cls: cls.name in names))

    return set_installed


EVERY = {"paddle": "fp32", "onnx-fp32": "fp32", "fake-fp32": "fp32", "fake-bf16": "bf16"}


@pytest.mark.parametrize(
    ("present", "options", "choice"),
    [
        (("onnxruntime", "paddle", "fake"), {}, ("onnxruntime", "fp32", "onnx-fp32")),
        (("paddle", "fake"), {}, ("paddle", "fp32", "paddle")),
        (("fake",), {}, ("fake", "fp32", "fake-fp32")),
        (("onnxruntime", "paddle", "fake"), {"precision": "bf16"}, ("fake", "bf16", "fake-bf16")),
        (("onnxruntime", "paddle", "fake"), {"device": "fake:1"}, ("fake", "fp32", "fake-fp32")),
        (("onnxruntime", "paddle", "fake"), {"name": "paddle"}, ("paddle", "fp32", "paddle")),
        (("fake",), {"name": "fake", "precision": "bf16"}, ("fake", "bf16", "fake-bf16")),
    ],
)
def test_choice(
    present: tuple[str, ...], options: dict[str, str], choice: tuple[str, ...], installed: Callable[..., None]
) -> None:
    installed(*present)
    selection = registry.select(fake_bundle.manifest(variants=EVERY), **options)
    assert (selection.engine.name, selection.precision, selection.variant) == choice


def test_default_precision_is_the_first_that_the_bundle_has(fake_engine: type[FakeEngine]) -> None:
    assert registry.select(fake_bundle.manifest(variants={"fake-bf16": "bf16"}), "fake").precision == "bf16"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"precision": "fp8"}, UsageError, "precision is 'fp8'; choose from fp32, fp16, bf16"),
        ({"precision": 32}, UsageError, "precision is 32; choose from fp32, fp16, bf16"),
        ({"precision": "fp16"}, UsageError, "engine fake runs fp32, bf16; got precision 'fp16'"),
        ({"device": "gpu"}, UsageError, "engine fake runs on cpu, fake:1; got device 'gpu'"),
        (
            {"precision": "bf16"},
            EngineUnavailable,
            "engine fake needs variant fake-bf16; the bundle has fake-fp32: export it again with --variants",
        ),
        ({"name": "paddle"}, EngineUnavailable, "engine paddle is not installed: pip install paddlepaddle"),
    ],
)
def test_refusal(
    options: dict[str, Any], error: type[Kandinsky22Error], text: str, installed: Callable[..., None]
) -> None:
    installed("fake")
    with pytest.raises(error) as caught:
        registry.select(fake_bundle.manifest(), **{"name": "fake", **options})
    assert str(caught.value) == text


def test_auto_reports_every_reason(installed: Callable[..., None]) -> None:
    installed("onnxruntime", "fake")
    with pytest.raises(EngineUnavailable) as caught:
        registry.select(fake_bundle.manifest(variants={"other": "fp32"}))
    assert str(caught.value) == (
        "no engine can run this bundle here:"
        "\n  - engine onnxruntime needs variant onnx-fp32; the bundle has other: export it again with --variants"
        "\n  - engine paddle is not installed: pip install paddlepaddle"
        "\n  - engine fake needs variant fake-fp32 or fake-bf16; the bundle has other: export it again with --variants"
    )


# -- optional graphs --


def lacking(component: str, *variants: str) -> Manifest:
    """A manifest of a decoder and a prior in two precisions, in which one graph lacks some variants."""
    manifest = fake_bundle.with_prior(variants={"fake-fp32": "fp32", "fake-bf16": "bf16", "other": "fp32"})
    part = manifest.components[component]
    rest = {name: item for name, item in part.variants.items() if name not in variants}
    components = {**manifest.components, component: dataclasses.replace(part, variants=rest)}
    return dataclasses.replace(manifest, components=components)


@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
def test_a_prior_does_not_decide_what_the_decoder_runs(precision: str | None, fake_engine: type[FakeEngine]) -> None:
    manifest = lacking("prior", "fake-fp32", "fake-bf16")
    selection = registry.select(manifest, "fake", precision)
    assert selection == registry.select(lacking("prior"), "fake", precision)
    assert selection.precision == (precision or "fp32")
    assert registry.for_component(selection, manifest, "text_encoder") == selection
    with pytest.raises(EngineUnavailable) as caught:
        registry.for_component(selection, manifest, "prior")
    assert str(caught.value) == (
        "engine fake needs variant fake-fp32 or fake-bf16; prior of the bundle has other: export it again with"
        " --variants"
    )


@pytest.mark.parametrize(("missing", "other"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_graph_that_lacks_the_variant_runs_in_another(
    missing: str, other: str, fake_engine: type[FakeEngine]
) -> None:
    manifest = lacking("prior", f"fake-{missing}")
    selection = registry.select(manifest, "fake", missing)
    assert registry.for_component(selection, manifest, "prior") == registry.Selection(
        fake_engine, Precision(other), f"fake-{other}", "cpu"
    )


def test_the_same_precision_is_preferred(fake_engine: type[FakeEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_engine, "fallback_variants", {"bf16": "other"})
    manifest = lacking("prior", "fake-bf16")
    selection = registry.select(manifest, "fake", "bf16")
    found = registry.for_component(selection, manifest, "prior")
    assert (found.precision, found.variant) == ("bf16", "other")


def test_a_task_of_the_prior_needs_its_own_graphs_only(fake_engine: type[FakeEngine]) -> None:
    manifest = lacking("unet", "fake-bf16")
    with pytest.raises(EngineUnavailable, match="needs variant fake-bf16; the bundle has fake-fp32, other"):
        registry.select(manifest, "fake", "bf16")
    assert registry.select(manifest, "fake", "bf16", components=["text_encoder", "prior"]).variant == "fake-bf16"


def test_a_precision_of_the_future_is_not_chosen(fake_engine: type[FakeEngine]) -> None:
    manifest = fake_bundle.manifest(variants={"fake-fp32": "fp8", "fake-bf16": "bf16"})
    assert registry.select(manifest, "fake").variant == "fake-bf16"
    with pytest.raises(EngineUnavailable, match="needs variant fake-fp32; the bundle has fake-bf16"):
        registry.select(manifest, "fake", "fp32")

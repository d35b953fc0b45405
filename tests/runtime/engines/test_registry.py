"""The engines by name, and the choice of what runs a bundle."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kandinsky_runtime.bundle.manifest import Manifest
from kandinsky_runtime.bundle.precision import Precision
from kandinsky_runtime.engines import registry
from kandinsky_runtime.engines.onnxruntime.engine import OnnxRuntimeEngine
from kandinsky_runtime.engines.paddle.engine import PaddleEngine
from kandinsky_runtime.errors import (
    EngineUnavailable,
    Kandinsky22Error,
    UsageError,
)
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine

# -- entry points and choice --


def test_built_in_engines() -> None:
    assert registry.engine_class("onnxruntime") is OnnxRuntimeEngine
    assert registry.engine_class("paddle") is PaddleEngine
    assert OnnxRuntimeEngine.installed()
    assert OnnxRuntimeEngine.version() == importlib.metadata.version("onnxruntime")


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

"""Fixtures for the fake bundle, its engine, and the fakes of the GPU's libraries."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import kandinsky_runtime.files
from kandinsky_runtime import cli
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.prior.pipeline import PriorPipeline
from tests.runtime import fake_bundle
from tests.runtime.command_line import K22, Result, files
from tests.runtime.fake_bundle import FakeEngine
from tests.runtime.fake_cuda import FakeCuda
from tests.runtime.fake_tensorrt import FakeTensorRT


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that replaces the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat files that were just written as settled, so that their checks are remembered."""
    monkeypatch.setattr(kandinsky_runtime.files, "_SETTLED_NS", -1)


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> type[FakeEngine]:
    """The fake engine, installed, before its first run."""
    monkeypatch.syspath_prepend(str(fake_bundle.install(tmp_path / "site-packages")))
    for name in ("runs", "loaded", "released"):
        monkeypatch.setattr(FakeEngine, name, [])
    monkeypatch.setattr(FakeEngine, "alter", FakeEngine.alter)
    return FakeEngine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a valid bundle for the fake engine."""
    return fake_bundle.write(tmp_path / "bundle")


@pytest.fixture
def pipeline(bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[InpaintPipeline]:
    with InpaintPipeline.load(bundle, engine="fake") as loaded:
        yield loaded


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A GPU, through a fake of `cuda.bindings`."""
    fake = FakeCuda()
    for name in ("cuda", "cuda.bindings"):
        package = types.ModuleType(name)
        package.__path__ = []
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        monkeypatch.setitem(sys.modules, name, package)
    sys.modules["cuda.bindings"].runtime = fake.module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake.module)
    return fake


@pytest.fixture
def tensorrt(cuda: FakeCuda, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT on this GPU, through a fake of `tensorrt`, and an empty cache."""
    fake = FakeTensorRT(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    return fake


@pytest.fixture
def gpu_bundle(tmp_path: Path) -> Path:
    """The folder of a valid bundle for the fake of TensorRT, in float32 and fp16."""
    return fake_bundle.write_onnx(tmp_path / "gpu_bundle")


@pytest.fixture
def prior_bundle(tmp_path: Path) -> Path:
    """The folder of a valid bundle for inpainting, with a prior."""
    return fake_bundle.write(tmp_path / "prior-bundle", fake_bundle.with_prior())


@pytest.fixture
def plain_bundle(tmp_path: Path) -> Path:
    """The folder of a valid bundle of a plain decoder, with a prior."""
    return fake_bundle.write(tmp_path / "plain-bundle", fake_bundle.with_prior(plain=True))


@pytest.fixture
def prior(prior_bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[PriorPipeline]:
    with PriorPipeline.load(prior_bundle, engine="fake") as loaded:
        yield loaded


@pytest.fixture
def prompted(prior_bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[InpaintPipeline]:
    """Inpainting from prompts."""
    with InpaintPipeline.load(prior_bundle, engine="fake") as loaded:
        yield loaded


@pytest.fixture
def generator(plain_bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[GeneratePipeline]:
    with GeneratePipeline.load(plain_bundle, engine="fake") as loaded:
        yield loaded


@pytest.fixture
def k22(folder: Path, capsys: pytest.CaptureFixture[str]) -> K22:
    """Run a command in this process. The test module defines the fixture `folder`, the current folder."""

    def run(*args: object) -> Result:
        try:
            status = cli.main([str(arg) for arg in args])
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else -1
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def refused(k22: K22, fake_engine: type[FakeEngine]) -> Callable[..., str]:
    """Run a command that must be refused: one line on stderr, nothing on stdout, no new file. Returns the line."""

    def run(*args: object, status: int = 2) -> str:
        before = files()
        result = k22(*args)
        assert result.status == status, result
        assert result.out == ""
        assert "Traceback" not in result.err
        (line,) = result.err.splitlines()
        assert re.match(r"k22( \w+)?: error: \S", line)
        assert files() == before
        return line.split("error: ", 1)[1]

    return run

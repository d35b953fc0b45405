"""Fixtures around the fake bundle and its engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kandinsky_runtime.generate import GeneratePipeline
from kandinsky_runtime.pipeline import InpaintPipeline
from kandinsky_runtime.prior import PriorPipeline
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import FakeEngine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> type[FakeEngine]:
    """The fake engine, installed, with no runs behind it."""
    monkeypatch.syspath_prepend(str(fake_bundle.install(tmp_path / "site-packages")))
    for name in ("runs", "loaded", "released"):
        monkeypatch.setattr(FakeEngine, name, [])
    monkeypatch.setattr(FakeEngine, "alter", FakeEngine.alter)
    return FakeEngine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a sound bundle for the fake engine."""
    return fake_bundle.write(tmp_path / "bundle")


@pytest.fixture
def pipeline(bundle: Path, fake_engine: type[FakeEngine]) -> Iterator[InpaintPipeline]:
    with InpaintPipeline.load(bundle, engine="fake") as loaded:
        yield loaded


@pytest.fixture
def prior_bundle(tmp_path: Path) -> Path:
    """The folder of a sound bundle for inpainting, with a prior."""
    return fake_bundle.write(tmp_path / "prior-bundle", fake_bundle.with_prior())


@pytest.fixture
def plain_bundle(tmp_path: Path) -> Path:
    """The folder of a sound bundle of a plain decoder, with a prior."""
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

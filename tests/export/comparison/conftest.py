"""Bundles for the fake engine, which computes in a few numpy lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from kandinsky_runtime.bundle.bundle import Bundle
from tests.runtime import fake_bundle


@pytest.fixture
def fake_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[fake_bundle.FakeEngine]:
    """The fake engine, installed, before its first run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(fake_bundle.install(tmp_path / "site-packages")))
    for name in ("runs", "loaded", "released"):
        monkeypatch.setattr(fake_bundle.FakeEngine, name, [])
    return fake_bundle.FakeEngine


@pytest.fixture
def inpainting(tmp_path: Path, fake_engine: type[fake_bundle.FakeEngine]) -> Bundle:
    """A bundle for inpainting, with a prior."""
    return Bundle.open(fake_bundle.write(tmp_path / "inpainting", fake_bundle.with_prior()))


@pytest.fixture
def plain(tmp_path: Path, fake_engine: type[fake_bundle.FakeEngine]) -> Bundle:
    """A bundle of a plain decoder, with a prior."""
    return Bundle.open(fake_bundle.write(tmp_path / "plain", fake_bundle.with_prior(plain=True)))

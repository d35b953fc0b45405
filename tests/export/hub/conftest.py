"""The fake hubs, and isolation from the user's own settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kandinsky_export import hub
from kandinsky_export.hub import http
from tests.export.hub.checkpoint import NAME, PADDLE_FILES, PUBLISHED
from tests.export.hub.fake_huggingface import FakeHuggingFace
from tests.export.hub.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pauses, no proxy, and nobody's cache or token."""
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@pytest.fixture
def store(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A Paddle store that holds NAME, named by K22_PADDLE_STORE."""
    server.files.update({f"/models/{NAME}/{file}": content for file, content in PADDLE_FILES.items()})
    monkeypatch.setenv(hub.PADDLE_STORE_VARIABLE, f"{server.url}/models/")
    return server


@pytest.fixture
def huggingface(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeHuggingFace:
    """The endpoint, put in place of the real one: huggingface_hub reads HF_ENDPOINT only when it is imported."""
    from huggingface_hub import file_download, hf_api

    monkeypatch.setattr(hf_api, "ENDPOINT", server.url)
    monkeypatch.setattr(file_download, "ENDPOINT", server.url)
    monkeypatch.setattr(
        file_download, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    fake = FakeHuggingFace(server)
    fake.publish(PUBLISHED)
    return fake

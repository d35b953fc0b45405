"""A Hugging Face endpoint over a FakeServer, fetching from it, and doing without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kandinsky_export import hub
from tests.export.hub.checkpoint import COMMIT, NAME
from tests.export.hub.fake_server import FakeServer


class FakeHuggingFace:
    """A Hugging Face endpoint with one repository, NAME, over a FakeServer."""

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        server.headers["404"] = {"X-Error-Code": "RepoNotFound"}

    def publish(self, names: set[str]) -> None:
        """Make the repository hold these files, each with its own name as content."""
        listing = {
            "id": NAME,
            "modelId": NAME,
            "sha": COMMIT,
            "private": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in sorted(names)],
        }
        for path in ("", "/revision/main", f"/revision/{COMMIT}"):
            self.server.files[f"/api/models/{NAME}{path}"] = json.dumps(listing).encode()
        for name in names:
            path = f"/{NAME}/resolve/{COMMIT}/{name}"
            self.server.files[path] = name.encode()
            self.server.headers[path] = {"X-Repo-Commit": COMMIT}

    def fail(self, status: int, **headers: str) -> None:
        """Answer every question about the repository with this status."""
        self.server.headers[str(status)] = {name.replace("_", "-"): value for name, value in headers.items()}
        for path in ("", "/revision/main", "/revision/v9"):
            self.server.statuses[f"/api/models/{NAME}{path}"] = [status] * 100


def fetch_hf(tmp_path: Path, **options: Any) -> Path:
    return hub.fetch_checkpoint(NAME, hub="huggingface", cache_dir=tmp_path / "cache", progress=False, **options)


def without_the_hub(trouble: str, huggingface: FakeHuggingFace, monkeypatch: pytest.MonkeyPatch) -> None:
    if trouble == "closed":
        huggingface.server.close()
    elif trouble == "broken":
        huggingface.fail(503)
    else:
        go_offline(monkeypatch)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 does when huggingface_hub is imported."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(_http, "get_session", _http._default_backend_factory)
    from huggingface_hub import hf_api

    monkeypatch.setattr(hf_api, "get_session", _http._default_backend_factory)

"""A Paddle store over a FakeServer, and fetching from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kandinsky_export import hub
from kandinsky_export.errors import DownloadError
from kandinsky_export.hub import http
from tests.export.hub.checkpoint import NAME, UNET, WEIGHTS
from tests.export.hub.fake_server import FakeServer, cut_after


def in_store(file: str) -> str:
    return f"/models/{NAME}/{file}"


def fetch(tmp_path: Path, **options: Any) -> Path:
    return hub.fetch_checkpoint(NAME, hub="paddle", cache_dir=tmp_path / "cache", progress=False, **options)


def part_of(tmp_path: Path, file: str = UNET) -> Path:
    return tmp_path / "cache" / "kandinsky-community--tiny-inpaint" / f"{file}.part"


def stop_halfway(tmp_path: Path, store: FakeServer, count: int = 300_000) -> None:
    """Leave the UNet with its first `count` bytes, and the store as if nothing had happened."""
    store.script[in_store(UNET)] = [cut_after(count)] + [cut_after(0)] * (http.ATTEMPTS - 1)
    with pytest.raises(DownloadError):
        fetch(tmp_path)
    assert part_of(tmp_path).read_bytes() == WEIGHTS[:count]
    store.requests.clear()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

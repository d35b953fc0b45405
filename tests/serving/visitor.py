"""Somebody who uses the page, in a real browser, against a real server.

The browser is Chromium, driven by playwright from the package registry. Where one of the two is missing, its tests are
skipped.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.served_bundles import Bundles
from tests.serving.server_process import Server

KEY = "a-key-of-the-page-tests"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = os.environ.get("K22_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync"
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def served(chromium: Any, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that needs a key; the browser is there first, so that none is started in vain."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "keys").write_text(KEY)
    with Server(bundles.inpaint, bundles.plain, folder=folder, flags=("--keys", str(folder / "keys"))) as made:
        yield made


class Visitor:
    """Somebody who uses the page.

    Attributes:
        page: the browser's page.
        problems: errors that the browser reported, such as violations of the policy.
    """

    def __init__(self, chromium: Any, url: str, *, key: str | None = KEY, **options: Any) -> None:
        self.context = chromium.new_context(**{"viewport": {"width": 1200, "height": 800}} | options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self._check_request(request.url, url))
        if key is not None:
            self.page.add_init_script(f"sessionStorage.setItem('key', {json.dumps(key)})")
        self.page.goto(url)

    def _check_request(self, asked: str, url: str) -> None:
        if not asked.startswith((url, "blob:", "data:")):
            self.problems.append(f"a request to {asked}")

    def open(self, content: bytes) -> None:
        self.page.wait_for_selector("#invite:not([hidden])")
        self.page.set_input_files("#file", {"name": "photo.png", "mimeType": "image/png", "buffer": content})
        self.page.wait_for_selector("#tools:not([hidden])")

    def at(self, across: float, down: float) -> tuple[float, float]:
        """A point of the stage, from its shares."""
        box = self.page.locator("#stage").bounding_box()
        return box["x"] + across * box["width"], box["y"] + down * box["height"]

    def stroke(self, *points: tuple[float, float], button: str = "left") -> None:
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down(button=button)
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=3)
        mouse.up(button=button)

    @property
    def facts(self) -> str:
        return str(self.page.inner_text("#facts"))

    def saved(self, button: str) -> bytes:
        """The file that a button saves."""
        with self.page.expect_download() as download:
            self.page.click(button)
        return Path(download.value.path()).read_bytes()

    def mask(self) -> Image.Image:
        """The mask as the page saves it."""
        self.page.click("#menu-open")
        return Image.open(io.BytesIO(self.saved("#mask-down")))

    def generate(self, **fields: object) -> None:
        for name, value in fields.items():
            self.page.fill(f"#{name}", str(value))
        self.page.click("#generate")

    def result(self) -> bytes:
        self.page.wait_for_selector("#result-bar:not([hidden])")
        return self.saved("#download")


@pytest.fixture
def visitor(chromium: Any, served: Server) -> Iterator[Visitor]:
    """Somebody whose browser must not report a problem."""
    made = Visitor(chromium, served.url)
    yield made
    made.context.close()
    assert made.problems == []


def jobs(server: Server) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{server.url}/v1/jobs", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)["data"]
    return found

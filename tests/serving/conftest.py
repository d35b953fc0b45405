"""A server and a browser for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.served_bundles import Bundles, bundles, generate, inpaint
from tests.serving.server_process import Server
from tests.serving.visitor import chromium, served, visitor

__all__ = ["bundles", "chromium", "generate", "inpaint", "served", "visitor"]


@pytest.fixture(scope="module")
def server(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of both bundles, for one module's tests."""
    with Server(bundles.inpaint, bundles.plain, folder=tmp_path_factory.mktemp("server")) as made:
        yield made

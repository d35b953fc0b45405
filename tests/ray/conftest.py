"""A Ray cluster of two nodes on this machine, for all tests."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.served_bundles import Bundles, bundles, generate, inpaint

if TYPE_CHECKING:
    from tests.ray.ray_cluster import TwoNodes

with warnings.catch_warnings(), suppress(ModuleNotFoundError):
    warnings.simplefilter("ignore")  # Ray declares fields as pydantic 1 did
    import ray.serve  # noqa: F401

__all__ = ["bundles", "generate", "inpaint"]


@pytest.fixture(scope="session")
def nodes(bundles: Bundles) -> Iterator[TwoNodes]:
    """The cluster, without Serve; it is stopped, and its files are removed."""
    from tests.ray.ray_cluster import ENVIRONMENT, TwoNodes

    folder = tempfile.mkdtemp(prefix="k22-ray-", dir="/tmp")  # short: it holds sockets
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        with TwoNodes(folder) as made:
            yield made
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)

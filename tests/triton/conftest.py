"""One Triton for all tests, with a model that repaints and one that generates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from kandinsky_runtime.cli import main
from tests.served_bundles import Bundles, bundles, generate, inpaint
from tests.serving.server_process import SIZE

if TYPE_CHECKING:
    from tests.triton.triton_server import TritonServer

__all__ = ["bundles", "generate", "inpaint"]

MOST_JOBS = 12


@pytest.fixture(scope="session")
def triton(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server with the models `inpaint` and `plain`."""
    from tests.triton.triton_server import TritonServer

    folder = tmp_path_factory.mktemp("triton")
    arguments = ["triton", f"inpaint={bundles.inpaint}", f"plain={bundles.plain}", "--out", str(folder / "models")]
    size = f"{SIZE[0]}x{SIZE[1]}"
    assert main([*arguments, "--threads", "1", "--size", size, "--max-jobs", str(MOST_JOBS), "--quiet"]) == 0
    with TritonServer(folder / "models", folder / "server") as made:
        made.wait_ready()
        yield made

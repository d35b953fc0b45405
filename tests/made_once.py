"""Folders that many tests read, made once for all of pytest's workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[[Path], object]


def made_once(folder: Path, make: Make) -> Path:
    """Return `folder`; the first process to ask for it makes it with `make`, and the others wait."""
    from filelock import FileLock

    made = Path(f"{folder}.made")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of pytest, the same for all its workers."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

"""Fixtures of all tests: checkpoints with random weights (seeded) and their bundles, made at their first use.

Many tests read them, so copy a file before changing it. No vendor's library is loaded before the first use.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.made_once import made_once
from tests.made_once import shared_folder as shared_folder
from tests.skip_report import pytest_terminal_summary as pytest_terminal_summary

# Set before MKL is loaded: the order of sums must not depend on the alignment of operands. Otherwise Paddle Inference
# and eager mode, which run the same kernels, differ by 2e-6 on a processor with AVX-512.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Replace the user's cache folder by an empty one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt the tests and their processes, even if a shell started them in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def tiny_checkpoint(shared_folder: Path) -> Path:
    """The tiny checkpoint of seed 0 in ppdiffusers' form."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    return made_once(shared_folder / "tiny" / "checkpoint", write_sample_checkpoint)


@pytest.fixture(scope="session")
def tiny_checkpoint_diffusers(shared_folder: Path) -> Path:
    """The tiny checkpoint of seed 0 in diffusers' form."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    write = partial(write_sample_checkpoint, form="diffusers")
    return made_once(shared_folder / "tiny" / "checkpoint-diffusers", write)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, shared_folder: Path) -> Path:
    """The bundle of `tiny_checkpoint`, with every variant."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

    def export(folder: Path) -> None:
        export_bundle(Checkpoint.open(tiny_checkpoint), folder, name="tiny")

    return made_once(shared_folder / "tiny" / "bundle", export)


@pytest.fixture(scope="session")
def tiny_lower_bundle(tiny_checkpoint: Path, shared_folder: Path) -> Path:
    """The bundle of `tiny_checkpoint` in ONNX, in float32, fp16 and bf16."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

    def export(folder: Path) -> None:
        variants = ("onnx-fp32", "onnx-fp16", "onnx-bf16")
        export_bundle(Checkpoint.open(tiny_checkpoint), folder, name="tiny", variants=variants)

    return made_once(shared_folder / "tiny" / "lower-bundle", export)

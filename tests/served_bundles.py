"""Tiny bundles for the tests of servers, made by the exporter of another environment, and their pipelines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from tests.made_once import made_once

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Bundles:
    """Tiny bundles with a prior."""

    inpaint: Path
    plain: Path


@pytest.fixture(scope="session")
def bundles(shared_folder: Path) -> Bundles:
    """Bundles that the exporter of another environment makes, once for all workers.

    With K22_SERVED_BUNDLES they are made in that folder, once for all runs of pytest.
    """
    exporter = Path(os.environ.get("K22_EXPORT", ROOT / ".venv-export" / "bin" / "k22-export"))
    if not exporter.exists():
        pytest.skip("the exporter is not installed: scripts/check makes its environment")

    def export(folder: Path) -> None:
        folder.mkdir()

        def run(arguments: str) -> None:
            subprocess.run([exporter, *arguments.split(), "--quiet"], cwd=folder, check=True, capture_output=True)

        with ThreadPoolExecutor() as threads:
            for together in (
                (
                    "checkpoint --format diffusers --out inpaint-checkpoint",
                    "checkpoint --decoder plain --format diffusers --out plain-checkpoint",
                    "checkpoint --prior --format diffusers --out prior",
                ),
                (
                    "bundle inpaint-checkpoint --prior prior --variants onnx-fp32 --out inpaint",
                    "bundle plain-checkpoint --prior prior --variants onnx-fp32 --out plain",
                ),
            ):
                list(threads.map(run, together))

    folder = made_once(Path(os.environ.get("K22_SERVED_BUNDLES", shared_folder / "served-bundles")), export)
    return Bundles(folder / "inpaint", folder / "plain")


@pytest.fixture(scope="session")
def inpaint(bundles: Bundles) -> Iterator[InpaintPipeline]:
    """The pipeline whose pictures the server's are compared with."""
    with InpaintPipeline.load(bundles.inpaint, threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def generate(bundles: Bundles) -> Iterator[GeneratePipeline]:
    """The same for text-to-image."""
    with GeneratePipeline.load(bundles.plain, threads=1) as pipeline:
        yield pipeline

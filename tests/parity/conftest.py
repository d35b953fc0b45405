"""Every golden case's checkpoint and bundle, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_runtime.pipeline import InpaintPipeline
from scripts.goldens.trajectories import CASES, SEED

ENGINES = ("onnxruntime", "openvino", "paddle")
"""Each in float32."""


@pytest.fixture(scope="session")
def case_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from kandinsky_export.sample_checkpoint import write_sample_checkpoint

    made: dict[str, Path] = {}

    def checkpoint(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("case") / name
            write_sample_checkpoint(made[name], seed=SEED, form="diffusers", changes=CASES[name].changes)
        return made[name]

    return checkpoint


@pytest.fixture(scope="session")
def case_bundle(case_checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoint import Checkpoint

    made: dict[str, Path] = {}

    def bundle(name: str) -> Path:
        if name not in made:
            folder = case_checkpoint(name)
            made[name] = folder.with_name(f"{name}-bundle")
            export_bundle(Checkpoint.open(folder), made[name], name=name)
        return made[name]

    return bundle


@pytest.fixture(scope="session")
def case_pipeline(case_bundle: Callable[[str], Path]) -> Callable[[str, str], InpaintPipeline]:
    made: dict[tuple[str, str], InpaintPipeline] = {}

    def pipeline(name: str, engine: str) -> InpaintPipeline:
        if (name, engine) not in made:
            made[name, engine] = InpaintPipeline.load(case_bundle(name), engine=engine, precision="fp32")
        return made[name, engine]

    return pipeline

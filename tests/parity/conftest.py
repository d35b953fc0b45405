"""Every golden case's checkpoint and bundle, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.prior.pipeline import PriorPipeline
from scripts.goldens import prior as prior_golden
from scripts.goldens.trajectories import CASES, SEED

ENGINES = ("onnxruntime", "openvino", "paddle")
"""Each in float32."""


@pytest.fixture(scope="session")
def case_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

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
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

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


@pytest.fixture(scope="session")
def prior_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    folder = tmp_path_factory.mktemp("prior") / "checkpoint"
    write_sample_prior(folder, seed=prior_golden.SEED, form="diffusers")
    return folder


@pytest.fixture(scope="session")
def prior_bundle(prior_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a decoder, of `prior_golden.DECODERS`, with the prior."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    made: dict[str, Path] = {}

    def bundle(decoder: str) -> Path:
        if decoder not in made:
            folder = tmp_path_factory.mktemp(decoder)
            checkpoint = folder / "checkpoint"
            write_sample_checkpoint(checkpoint, decoder=decoder, seed=prior_golden.SEED, form="diffusers")
            made[decoder] = folder / "bundle"
            prior = PriorCheckpoint.open(prior_checkpoint)
            export_bundle(Checkpoint.open(checkpoint), made[decoder], name=decoder, prior=prior, prior_name="prior")
        return made[decoder]

    return bundle


@pytest.fixture(scope="session")
def prior_pipeline(prior_bundle: Callable[[str], Path]) -> Callable[[str], PriorPipeline]:
    made: dict[str, PriorPipeline] = {}

    def pipeline(engine: str) -> PriorPipeline:
        if engine not in made:
            made[engine] = PriorPipeline.load(prior_bundle(prior_golden.INPAINT), engine=engine, precision="fp32")
        return made[engine]

    return pipeline


@pytest.fixture(scope="session")
def prompted_pipeline(
    prior_bundle: Callable[[str], Path],
) -> Callable[[str, str], InpaintPipeline | GeneratePipeline]:
    """The pipeline of a decoder, of `prior_golden.DECODERS`, with the prior, on an engine."""
    made: dict[tuple[str, str], InpaintPipeline | GeneratePipeline] = {}

    def pipeline(decoder: str, engine: str) -> InpaintPipeline | GeneratePipeline:
        if (decoder, engine) not in made:
            kind = InpaintPipeline if decoder == prior_golden.INPAINT else GeneratePipeline
            made[decoder, engine] = kind.load(prior_bundle(decoder), engine=engine, precision="fp32")
        return made[decoder, engine]

    return pipeline

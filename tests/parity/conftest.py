"""Every golden case's checkpoint and bundle, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.prior.pipeline import PriorPipeline
from scripts.goldens import prior as prior_golden
from scripts.goldens.trajectories import CASES, SEED
from tests.made_once import made_once

ENGINES = ("onnxruntime", "openvino", "paddle")
"""Each in float32."""


@pytest.fixture(scope="session")
def case_checkpoint(shared_folder: Path) -> Callable[[str], Path]:
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    def checkpoint(name: str) -> Path:
        write = partial(write_sample_checkpoint, seed=SEED, form="diffusers", changes=CASES[name].changes)
        return made_once(shared_folder / "cases" / name, write)

    return checkpoint


@pytest.fixture(scope="session")
def case_bundle(case_checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

    def bundle(name: str) -> Path:
        checkpoint = case_checkpoint(name)

        def export(folder: Path) -> None:
            export_bundle(Checkpoint.open(checkpoint), folder, name=name)

        return made_once(checkpoint.with_name(f"{name}-bundle"), export)

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
def prior_checkpoint(shared_folder: Path) -> Path:
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    write = partial(write_sample_prior, seed=prior_golden.SEED, form="diffusers")
    return made_once(shared_folder / "prior-cases" / "prior", write)


@pytest.fixture(scope="session")
def prior_bundle(prior_checkpoint: Path, shared_folder: Path) -> Callable[[str], Path]:
    """The bundle of a decoder, of `prior_golden.DECODERS`, with the prior."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    def bundle(decoder: str) -> Path:
        def export(folder: Path) -> None:
            checkpoint = folder.with_name(f"{decoder}-checkpoint")
            write_sample_checkpoint(checkpoint, decoder=decoder, seed=prior_golden.SEED, form="diffusers")
            prior = PriorCheckpoint.open(prior_checkpoint)
            export_bundle(Checkpoint.open(checkpoint), folder, name=decoder, prior=prior, prior_name="prior")

        return made_once(shared_folder / "prior-cases" / decoder, export)

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

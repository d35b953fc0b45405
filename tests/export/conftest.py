"""The smallest checkpoint there is, one block in either model: for tests that change it or export it many times."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kandinsky_export.random_weights.configs import sized
from tests.export.prior_files import MICRO_PRIOR
from tests.made_once import made_once

if TYPE_CHECKING:
    from kandinsky_export.checkpoints.checkpoint import Expected

MICRO: Mapping[str, Mapping[str, Any]] = {
    "unet": {
        "block_out_channels": [32],
        "down_block_types": ["ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D"],
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    },
    "movq": {
        "block_out_channels": [32],
        "down_block_types": ["DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D"],
    },
}


@pytest.fixture(scope="session")
def micro_checkpoint(shared_folder: Path) -> Path:
    """In ppdiffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    return made_once(shared_folder / "micro" / "checkpoint", partial(write_sample_checkpoint, changes=MICRO))


@pytest.fixture(scope="session")
def micro_checkpoint_diffusers(shared_folder: Path) -> Path:
    """In diffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    write = partial(write_sample_checkpoint, form="diffusers", changes=MICRO)
    return made_once(shared_folder / "micro" / "checkpoint-diffusers", write)


@pytest.fixture(scope="session")
def micro_expected() -> dict[str, dict[str, Expected]]:
    """What its models expect, by component and name."""
    from kandinsky_export.graphs.architecture import build_models, expected_tensors

    configs = {name: sized(name, "tiny") | dict(changes) for name, changes in MICRO.items()}
    return {name: expected_tensors(model) for name, model in build_models(configs, "micro").items()}


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, shared_folder: Path) -> Path:
    """Its bundle, with every variant; not to be changed."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

    def export(folder: Path) -> None:
        export_bundle(Checkpoint.open(micro_checkpoint), folder, name="micro")

    return made_once(shared_folder / "micro" / "bundle", export)


@pytest.fixture
def micro_copy(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy in ppdiffusers' form, to change."""
    return Path(shutil.copytree(micro_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def micro_copy_diffusers(micro_checkpoint_diffusers: Path, tmp_path: Path) -> Path:
    """A copy in diffusers' form, to change."""
    return Path(shutil.copytree(micro_checkpoint_diffusers, tmp_path / "checkpoint-diffusers"))


@pytest.fixture(scope="session")
def micro_prior(shared_folder: Path) -> Path:
    """A prior for `micro_checkpoint`, one layer in each model, in ppdiffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    return made_once(shared_folder / "micro" / "prior", partial(write_sample_prior, changes=MICRO_PRIOR))


@pytest.fixture(scope="session")
def micro_prior_diffusers(shared_folder: Path) -> Path:
    """The same in diffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    write = partial(write_sample_prior, form="diffusers", changes=MICRO_PRIOR)
    return made_once(shared_folder / "micro" / "prior-diffusers", write)


@pytest.fixture(scope="session")
def micro_prior_expected() -> dict[str, dict[str, Expected]]:
    """What its models expect, by component and name."""
    from kandinsky_export.graphs.architecture import build_models, expected_tensors
    from kandinsky_export.random_weights.vocabulary import small_vocabulary

    configs = {name: sized(name, "tiny") | dict(changes) for name, changes in MICRO_PRIOR.items()}
    configs["text_encoder"]["vocab_size"] = len(small_vocabulary().tokens)
    return {name: expected_tensors(model) for name, model in build_models(configs, "micro").items()}


@pytest.fixture(scope="session")
def micro_prior_bundle(micro_checkpoint: Path, micro_prior_diffusers: Path, shared_folder: Path) -> Path:
    """The bundle of `micro_checkpoint` with the prior, with every float32 variant; not to be changed."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint

    def export(folder: Path) -> None:
        prior = PriorCheckpoint.open(micro_prior_diffusers)
        export_bundle(Checkpoint.open(micro_checkpoint), folder, name="micro", prior=prior, prior_name="micro-prior")

    return made_once(shared_folder / "micro" / "prior-bundle", export)


@pytest.fixture
def micro_prior_copy(micro_prior: Path, tmp_path: Path) -> Path:
    """A copy of the prior in ppdiffusers' form, to change."""
    return Path(shutil.copytree(micro_prior, tmp_path / "prior"))

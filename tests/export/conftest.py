"""The smallest checkpoint there is, one block in either model: for tests that change it or export it many times."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kandinsky_export.random_weights.configs import sized
from tests.export.prior_files import MICRO_PRIOR

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
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In ppdiffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    folder = tmp_path_factory.mktemp("micro") / "checkpoint"
    write_sample_checkpoint(folder, changes=MICRO)
    return folder


@pytest.fixture(scope="session")
def micro_checkpoint_diffusers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In diffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint

    folder = tmp_path_factory.mktemp("micro") / "checkpoint-diffusers"
    write_sample_checkpoint(folder, form="diffusers", changes=MICRO)
    return folder


@pytest.fixture(scope="session")
def micro_expected() -> dict[str, dict[str, Expected]]:
    """What its models expect, by component and name."""
    from kandinsky_export.graphs.architecture import build_models, expected_tensors

    configs = {name: sized(name, "tiny") | dict(changes) for name, changes in MICRO.items()}
    return {name: expected_tensors(model) for name, model in build_models(configs, "micro").items()}


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle, with every variant; not to be changed."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

    folder = tmp_path_factory.mktemp("micro") / "bundle"
    export_bundle(Checkpoint.open(micro_checkpoint), folder, name="micro")
    return folder


@pytest.fixture
def micro_copy(micro_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy in ppdiffusers' form, to change."""
    return Path(shutil.copytree(micro_checkpoint, tmp_path / "checkpoint"))


@pytest.fixture
def micro_copy_diffusers(micro_checkpoint_diffusers: Path, tmp_path: Path) -> Path:
    """A copy in diffusers' form, to change."""
    return Path(shutil.copytree(micro_checkpoint_diffusers, tmp_path / "checkpoint-diffusers"))


@pytest.fixture(scope="session")
def micro_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior for `micro_checkpoint`, one layer in each model, in ppdiffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    folder = tmp_path_factory.mktemp("micro") / "prior"
    write_sample_prior(folder, changes=MICRO_PRIOR)
    return folder


@pytest.fixture(scope="session")
def micro_prior_diffusers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in diffusers' form; not to be changed."""
    from kandinsky_export.random_weights.sample_prior import write_sample_prior

    folder = tmp_path_factory.mktemp("micro") / "prior-diffusers"
    write_sample_prior(folder, form="diffusers", changes=MICRO_PRIOR)
    return folder


@pytest.fixture(scope="session")
def micro_prior_expected() -> dict[str, dict[str, Expected]]:
    """What its models expect, by component and name."""
    from kandinsky_export.graphs.architecture import build_models, expected_tensors
    from kandinsky_export.random_weights.vocabulary import small_vocabulary

    configs = {name: sized(name, "tiny") | dict(changes) for name, changes in MICRO_PRIOR.items()}
    configs["text_encoder"]["vocab_size"] = len(small_vocabulary().tokens)
    return {name: expected_tensors(model) for name, model in build_models(configs, "micro").items()}


@pytest.fixture(scope="session")
def micro_prior_bundle(
    micro_checkpoint: Path, micro_prior_diffusers: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bundle of `micro_checkpoint` with the prior, with every float32 variant; not to be changed."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint
    from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint

    folder = tmp_path_factory.mktemp("micro") / "prior-bundle"
    prior = PriorCheckpoint.open(micro_prior_diffusers)
    export_bundle(Checkpoint.open(micro_checkpoint), folder, name="micro", prior=prior, prior_name="micro-prior")
    return folder


@pytest.fixture
def micro_prior_copy(micro_prior: Path, tmp_path: Path) -> Path:
    """A copy of the prior in ppdiffusers' form, to change."""
    return Path(shutil.copytree(micro_prior, tmp_path / "prior"))

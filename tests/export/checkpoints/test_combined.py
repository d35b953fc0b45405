"""The folder of diffusers' combined pipeline: a decoder's, with the prior in `prior_*` folders."""

from __future__ import annotations

import inspect
import json
import shutil
import warnings
from pathlib import Path

import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.checkpoints.unused_files import unused_notes
from kandinsky_export.cli import main
from kandinsky_runtime.bundle.bundle import Bundle


def combine(decoder: Path, prior: Path, target: Path) -> Path:
    """Both in one folder."""
    shutil.copytree(decoder, target)
    for folder in prior.iterdir():
        if folder.is_dir():
            shutil.copytree(folder, target / f"prior_{folder.name}")
    return target


@pytest.fixture
def combined(micro_checkpoint: Path, micro_prior: Path, tmp_path: Path) -> Path:
    return combine(micro_checkpoint, micro_prior, tmp_path / "combined")


def test_the_folders_are_those_of_the_reference(combined: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        from ppdiffusers import KandinskyV22InpaintCombinedPipeline
    saved = set(inspect.signature(KandinskyV22InpaintCombinedPipeline.__init__).parameters) - {"self"}
    assert {path.name for path in combined.iterdir() if path.is_dir()} == saved


def test_the_prior_is_that_of_its_own_folder(combined: Path, micro_prior: Path) -> None:
    ours, alone = PriorCheckpoint.open(combined), PriorCheckpoint.open(micro_prior)
    assert ours.scheduler == alone.scheduler
    assert ours.scheduler["_class_name"] == "UnCLIPScheduler"
    assert ours.tokenizer.config == alone.tokenizer.config
    assert {name: item.config for name, item in ours.components.items()} == {
        name: item.config for name, item in alone.components.items()
    }
    assert [path.relative_to(combined).as_posix() for path in ours.files()] == [
        f"prior_{path.relative_to(micro_prior).as_posix()}" for path in alone.files()
    ]


def test_every_fault_names_the_folder_that_is_there(combined: Path) -> None:
    (combined / "prior_tokenizer" / "vocab.json").unlink()
    (combined / "prior_scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(Exception, match=r"prior_scheduler/scheduler_config.json is missing") as caught:
        PriorCheckpoint.open(combined)
    assert "prior_tokenizer/vocab.json is missing" in str(caught.value)


def test_bundle(combined: Path, micro_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["bundle", str(combined), "--prior", str(combined), "--variants", "paddle", "--quiet"]
    arguments += ["--without", "image_encoder,text_encoder,prior", "--out", str(tmp_path / "bundle")]
    assert main(arguments) == 0
    assert capfd.readouterr().err == ""  # everything in the folder was used
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.scheduler == json.loads((micro_checkpoint / "scheduler" / "scheduler_config.json").read_text())
    assert manifest.prior is not None
    assert manifest.prior.scheduler["_class_name"] == "UnCLIPScheduler"
    assert "prior_prior/config.json" in manifest.source["prior"]["files"]


class TestUnused:
    def test_the_prior_without_prior(self, combined: Path) -> None:
        (note,) = unused_notes([Checkpoint.open(combined)])
        assert note == (
            f"{combined}: not used: prior_image_encoder/, prior_image_processor/, prior_prior/, prior_scheduler/, "
            f"prior_text_encoder/, prior_tokenizer/; the folders prior_* are a prior: --prior {combined} exports it"
        )

    def test_nothing(self, combined: Path) -> None:
        (combined / "README.md").write_text("# A model")
        (combined / "assets").mkdir()
        (combined / "assets" / "cat.png").write_bytes(b"")
        assert unused_notes([Checkpoint.open(combined), PriorCheckpoint.open(combined)]) == []

    def test_other_weights_and_models(self, micro_copy: Path, micro_prior: Path) -> None:
        (micro_copy / "unet" / "diffusion_pytorch_model.bin").touch()
        (micro_copy / "unet" / "model_state.fp16.pdparams").touch()
        (micro_copy / "safety_checker").mkdir()
        (micro_copy / "safety_checker" / "config.json").touch()
        (micro_copy / "pytorch_lora_weights.safetensors").touch()
        notes = unused_notes([Checkpoint.open(micro_copy), PriorCheckpoint.open(micro_prior)])
        assert notes == [
            f"{micro_copy}: not used: pytorch_lora_weights.safetensors, safety_checker/, "
            "unet/diffusion_pytorch_model.bin, unet/model_state.fp16.pdparams; --lora"
            f" {micro_copy / 'pytorch_lora_weights.safetensors'} merges the LoRA"
        ]

    def test_at_most_twenty_names(self, micro_copy: Path) -> None:
        for number in range(35):
            (micro_copy / "unet" / f"diffusion_pytorch_model-{number:05}-of-00035.safetensors").touch()
        (note,) = unused_notes([Checkpoint.open(micro_copy)])
        assert note.count(".safetensors") == 20
        assert note.endswith(" and 15 more")

"""Checkpoints with random weights: the published names, shapes and dtypes, whole or not at all.

Covers `configs`, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected
from kandinsky_export.errors import CheckpointError, ExportError
from kandinsky_export.random_weights import sample_checkpoint
from kandinsky_export.random_weights.sample_checkpoint import EMBEDS, write_sample_checkpoint
from kandinsky_export.random_weights.seeded import seeded_tensor
from kandinsky_export.vendors import paddle
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.prior.embeds import read_embeds
from tests.export.checkpoints.weight_files import read_all
from tests.export.conftest import MICRO

ExpectedTensors = dict[str, dict[str, Expected]]


def test_files(micro_checkpoint: Path, micro_checkpoint_diffusers: Path) -> None:
    for folder, form, weights in (
        (micro_checkpoint, "ppdiffusers", "model_state.pdparams"),
        (micro_checkpoint_diffusers, "diffusers", "diffusion_pytorch_model.safetensors"),
    ):
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert files == [
            "image_embeds.npz",
            "model_index.json",
            "movq/config.json",
            f"movq/{weights}",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            f"unet/{weights}",
        ]
        index = json.loads((folder / "model_index.json").read_text())
        assert index["unet"] == [form, "UNet2DConditionModel"]
        assert index["_class_name"] == "KandinskyV22InpaintPipeline"


def test_safetensors_themselves_read_it(micro_checkpoint_diffusers: Path, micro_expected: ExpectedTensors) -> None:
    file = micro_checkpoint_diffusers / "unet" / "diffusion_pytorch_model.safetensors"
    assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0  # values begin aligned
    with safe_open(file, framework="numpy") as tensors:
        assert tensors.metadata() == {"format": "pt"}
        assert set(tensors.keys()) == set(micro_expected["unet"])
        for name, item in micro_expected["unet"].items():
            want = seeded_tensor(0, f"unet.{name}", item.torch_shape)
            np.testing.assert_array_equal(tensors.get_tensor(name), want)


def test_paddle_itself_reads_it(micro_checkpoint: Path, micro_expected: ExpectedTensors) -> None:
    tensors = paddle.load(str(micro_checkpoint / "movq" / "model_state.pdparams"), return_numpy=True)
    assert list(tensors) == list(micro_expected["movq"])
    for name, item in micro_expected["movq"].items():
        want = seeded_tensor(0, f"movq.{name}", item.torch_shape)
        np.testing.assert_array_equal(tensors[name], want.T if item.transposed else want)


def test_the_embeddings_fit(micro_checkpoint: Path) -> None:
    width = Checkpoint.open(micro_checkpoint).components["unet"].config["encoder_hid_dim"]
    embeds, negative = read_embeds(micro_checkpoint / EMBEDS)
    assert negative is not None
    assert embeds.shape == negative.shape == (1, width)


def test_the_same_seed_writes_the_same_bytes(micro_checkpoint: Path, tmp_path: Path) -> None:
    write_sample_checkpoint(tmp_path / "again", changes=MICRO)
    for path in micro_checkpoint.rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(micro_checkpoint)).read_bytes() == path.read_bytes()


def test_another_seed_writes_other_values(
    micro_checkpoint: Path, micro_expected: ExpectedTensors, tmp_path: Path
) -> None:
    write_sample_checkpoint(tmp_path / "other", seed=1, changes=MICRO)
    mine, other = read_all(micro_checkpoint, micro_expected), read_all(tmp_path / "other", micro_expected)
    for name, values in mine["unet"].items():
        assert not np.array_equal(values, other["unet"][name])


def test_changes(tmp_path: Path) -> None:
    changes = {**MICRO, "scheduler": {"variance_type": "learned_range"}}
    write_sample_checkpoint(tmp_path / "new", changes=changes)
    checkpoint = Checkpoint.open(tmp_path / "new")
    assert checkpoint.scheduler["variance_type"] == "learned_range"
    assert checkpoint.components["unet"].config["block_out_channels"] == [32]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "there is no size 'huge'; choose from tiny, full"),
        ({"form": "torch"}, "there is no form 'torch'; choose from ppdiffusers, diffusers"),
    ],
)
def test_unknown_options(options: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_sample_checkpoint(tmp_path / "new", **options)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="tiny checkpoint: unet config: `norm_num_groups` is 7"):
        write_sample_checkpoint(tmp_path / "new", changes={"unet": {"norm_num_groups": 7}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["ppdiffusers", "diffusers"])
def test_a_failure_half_way_leaves_nothing(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(seed: int, name: str, shape: tuple[int, ...]) -> None:
        if name == "movq.quantize.embedding.weight":
            raise OSError(28, "No space left on device")
        return seeded_tensor(seed, name, shape)  # type: ignore[return-value]

    monkeypatch.setattr(sample_checkpoint, "seeded_tensor", full_disk)
    with pytest.raises(ExportError, match="the disk is full"):
        write_sample_checkpoint(tmp_path / "new", form=form, changes=MICRO)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_existing_checkpoint_is_replaced_only_when_asked_to(micro_copy: Path) -> None:
    with pytest.raises(UsageError, match="replace it with --overwrite"):
        write_sample_checkpoint(micro_copy, changes=MICRO)
    write_sample_checkpoint(micro_copy, form="diffusers", changes=MICRO, overwrite=True)
    assert Checkpoint.open(micro_copy).components["unet"].form == "diffusers"

"""What ppdiffusers itself saves, read back: its own `save_pretrained` is the oracle."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected, read_models
from kandinsky_export.checkpoints.prior_checkpoint import WEIGHT_STEMS, PriorCheckpoint
from kandinsky_export.checkpoints.unused_files import unused_notes
from kandinsky_export.graphs.architecture import build_models, fill
from tests.export.checkpoints.weight_files import read_all, save_safetensors, stored

ExpectedTensors = dict[str, dict[str, Expected]]
Save = Callable[..., None]

SMALL = "2KB"  # of a shard


def filled(folder: Path, checkpoint: Checkpoint, expected: ExpectedTensors, name: str) -> Any:
    """A model of ppdiffusers with a checkpoint's values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        model = build_models({name: checkpoint.components[name].config}, str(folder))[name]
        fill(model, checkpoint.tensors({name: expected[name]})[name])
    return model


def save(model: Any, folder: Path, **options: Any) -> None:
    shutil.rmtree(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(str(folder), **options)


def assert_same(got: Mapping[str, Any], want: Mapping[str, Any]) -> None:
    assert set(got) == set(want)
    for name, values in want.items():
        np.testing.assert_array_equal(got[name], values, err_msg=name)


@pytest.mark.parametrize(
    ("options", "file"),
    [
        ({}, "diffusion_paddle_model.safetensors"),
        ({"max_shard_size": SMALL}, "diffusion_paddle_model.safetensors.index.json"),
        ({"variant": "fp32"}, "diffusion_paddle_model.fp32.safetensors"),
        ({"variant": "fp32", "max_shard_size": SMALL}, "diffusion_paddle_model.safetensors.index.fp32.json"),
        ({"safe_serialization": False}, "model_state.pdparams"),
        ({"safe_serialization": False, "max_shard_size": SMALL}, "model_state.pdparams.index.json"),
        ({"to_diffusers": True}, "diffusion_pytorch_model.safetensors"),
    ],
)
def test_movq(options: dict[str, Any], file: str, micro_copy: Path, micro_expected: ExpectedTensors) -> None:
    checkpoint = Checkpoint.open(micro_copy)
    want = read_all(micro_copy, micro_expected)["movq"]
    save(filled(micro_copy, checkpoint, micro_expected, "movq"), micro_copy / "movq", **options)
    again = Checkpoint.open(micro_copy)
    assert again.components["movq"].weights.name == file
    assert again.components["movq"].form == ("diffusers" if "to_diffusers" in options else "ppdiffusers")
    assert_same(read_all(micro_copy, micro_expected)["movq"], want)
    assert {path for path in again.files() if path.parent.name == "movq"} == set((micro_copy / "movq").iterdir())


def test_bf16(micro_copy: Path, micro_expected: ExpectedTensors) -> None:
    """numpy has no bf16: ppdiffusers saves the bits as U16."""
    model = filled(micro_copy, Checkpoint.open(micro_copy), micro_expected, "movq")
    save(model.to(dtype="bfloat16"), micro_copy / "movq")
    want = {name: tensor.astype("float32").numpy() for name, tensor in model.state_dict().items()}
    assert_same(read_all(micro_copy, micro_expected)["movq"], want)


@pytest.mark.parametrize("name", ["text_encoder", "image_encoder", "prior"])
@pytest.mark.parametrize(
    "options",
    [
        {"safe_serialization": True},
        {"safe_serialization": True, "max_shard_size": SMALL},
        {"safe_serialization": False, "max_shard_size": SMALL},
    ],
)
def test_prior(
    name: str, options: dict[str, Any], micro_prior_copy: Path, micro_prior_expected: ExpectedTensors
) -> None:
    """The encoders' projections are square: the layout is in the file's metadata, not in the shapes."""
    checkpoint, wanted = PriorCheckpoint.open(micro_prior_copy), {name: micro_prior_expected[name]}
    want = {key: values() for key, values in checkpoint.tensors(wanted)[name].items()}
    save(filled(micro_prior_copy, checkpoint, micro_prior_expected, name), micro_prior_copy / name, **options)
    again = PriorCheckpoint.open(micro_prior_copy)
    assert again.components[name].form == "ppdiffusers"
    assert_same({key: values() for key, values in again.tensors(wanted)[name].items()}, want)


def test_an_older_file_is_not_taken_and_is_named(
    micro_copy: Path, micro_expected: ExpectedTensors, caplog: pytest.LogCaptureFixture
) -> None:
    old = micro_copy / "movq" / "model_state.pdparams"
    kept = old.read_bytes()
    save(filled(micro_copy, Checkpoint.open(micro_copy), micro_expected, "movq"), micro_copy / "movq")
    old.write_bytes(kept)
    values = stored(micro_copy, "movq", micro_expected)
    save_safetensors(micro_copy / "movq" / "diffusion_pytorch_model.safetensors", values)
    checkpoint = Checkpoint.open(micro_copy)
    assert checkpoint.components["movq"].weights.name == "diffusion_paddle_model.safetensors"
    assert unused_notes([checkpoint]) == [
        f"{micro_copy}: not used: movq/diffusion_pytorch_model.safetensors, movq/model_state.pdparams"
    ]


@pytest.mark.parametrize(
    ("key", "taken"), [("paddlenlp_version", "model_state.pdparams"), ("torch_dtype", "model.safetensors")]
)
def test_the_library_that_wrote_the_config_decides(key: str, taken: str, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text(f'{{"{key}": null}}')
    (folder / "model_state.pdparams").touch()
    save_safetensors(folder / "model.safetensors", {"a": np.zeros(1, np.float32)})
    faults: list[str] = []
    models = read_models(tmp_path, {"text_encoder": WEIGHT_STEMS["text_encoder"]}, None, faults)
    assert models["text_encoder"].weights.name == taken

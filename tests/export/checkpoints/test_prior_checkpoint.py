"""A prior's folder in both forms, as libraries have written it, and everything that can be wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kandinsky_export.checkpoints.checkpoint import Expected
from kandinsky_export.checkpoints.pdparams_writer import write_pdparams
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models
from kandinsky_export.random_weights.configs import sized
from tests.export.checkpoints.weight_files import as_thunks, save_safetensors, save_shards

ExpectedTensors = dict[str, dict[str, Expected]]


def faults_of(work: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        work()
    return caught.value.faults


def read(folder: Path, component: str, expected: ExpectedTensors) -> dict[str, np.ndarray]:
    tensors = PriorCheckpoint.open(folder).tensors(expected)[component]
    return {name: values() for name, values in tensors.items()}


def test_every_file_is_listed(micro_prior: Path) -> None:
    files = PriorCheckpoint.open(micro_prior).files()
    there = {path for path in micro_prior.rglob("*") if path.is_file()}
    assert set(files) == there - {micro_prior / "model_index.json"}
    assert len(files) == len(set(files))


def test_everything_missing_is_listed(tmp_path: Path) -> None:
    (tmp_path / "prior").mkdir()
    faults = faults_of(lambda: PriorCheckpoint.open(tmp_path))
    assert faults == (
        "scheduler/scheduler_config.json is missing",
        "text_encoder/config.json is missing",
        "text_encoder has no weights (model.safetensors or model_state.pdparams)",
        "image_encoder/config.json is missing",
        "image_encoder has no weights (model.safetensors or model_state.pdparams)",
        "prior/config.json is missing",
        "prior has no weights (diffusion_pytorch_model.safetensors or model_state.pdparams)",
        "tokenizer/vocab.json is missing",
        "tokenizer/merges.txt is missing",
        "image_processor/preprocessor_config.json is missing",
    )


def test_no_folder(tmp_path: Path) -> None:
    assert faults_of(lambda: PriorCheckpoint.open(tmp_path / "missing")) == ("no such folder",)


def test_half_precision_widens_exactly(
    micro_prior_copy: Path, micro_prior: Path, micro_prior_expected: ExpectedTensors
) -> None:
    """As the published image encoder is stored."""
    expected = micro_prior_expected["image_encoder"]
    half = {
        name: (array.T if expected[name].transposed else array).astype(np.float16)
        for name, array in read(micro_prior, "image_encoder", micro_prior_expected).items()
    }
    folder = micro_prior_copy / "image_encoder"
    (folder / "model_state.pdparams").unlink()
    save_safetensors(folder / "model.safetensors", {name: np.ascontiguousarray(a) for name, a in half.items()})
    for name, array in read(micro_prior_copy, "image_encoder", micro_prior_expected).items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array.T if expected[name].transposed else array, half[name].astype(np.float32))


def test_shards(micro_prior_copy: Path, micro_prior: Path, micro_prior_expected: ExpectedTensors) -> None:
    expected = micro_prior_expected["text_encoder"]
    values = read(micro_prior, "text_encoder", micro_prior_expected)
    turned = {name: np.ascontiguousarray(a.T) if expected[name].transposed else a for name, a in values.items()}
    folder = micro_prior_copy / "text_encoder"
    (folder / "model_state.pdparams").unlink()
    save_shards(folder, turned, "model.safetensors.index.json", "model-{}.safetensors")
    assert PriorCheckpoint.open(micro_prior_copy).components["text_encoder"].form == "diffusers"
    for name, array in read(micro_prior_copy, "text_encoder", micro_prior_expected).items():
        np.testing.assert_array_equal(array, values[name])


def test_paddlenlps_names(micro_prior_copy: Path, micro_prior: Path, micro_prior_expected: ExpectedTensors) -> None:
    """As the Paddle store's checkpoints were written, with the positions that were stored with the weights."""
    values = read(micro_prior, "text_encoder", micro_prior_expected)
    old = {
        name.replace("embeddings.token_embedding", "token_embedding")
        .replace("embeddings.position_embedding", "positional_embedding")
        .replace("encoder.layers", "transformer.layers")
        .replace("mlp.fc", "linear")
        .replace("layer_norm1", "norm1")
        .replace("layer_norm2", "norm2")
        .replace("final_layer_norm", "ln_final")
        .replace("text_projection.weight", "text_projection"): array
        for name, array in values.items()
    }
    assert not set(old) & set(values)
    old["text_model.embeddings.position_ids"] = np.arange(77)[None]
    write_pdparams(micro_prior_copy / "text_encoder" / "model_state.pdparams", as_thunks(old))
    for name, array in read(micro_prior_copy, "text_encoder", micro_prior_expected).items():
        np.testing.assert_array_equal(array, values[name])


def test_all_faults_of_the_tensors_at_once(
    micro_prior_copy: Path, micro_prior: Path, micro_prior_expected: ExpectedTensors
) -> None:
    for component, change in {
        "text_encoder": {"text_projection.weight": np.zeros((3, 5), np.float32)},
        "prior": {"unknown": np.zeros(3, np.float32)},
    }.items():
        values = read(micro_prior, component, micro_prior_expected) | change
        write_pdparams(micro_prior_copy / component / "model_state.pdparams", as_thunks(values))
    faults = faults_of(lambda: PriorCheckpoint.open(micro_prior_copy).tensors(micro_prior_expected))
    assert faults == (
        "text_encoder: `text_projection.weight` has shape (3, 5); the config makes it (32, 32)",
        "prior: `unknown` is extra; the config has no place for it",
    )


class TestConfigValues:
    @pytest.mark.parametrize(
        ("model", "key", "value", "fault"),
        [
            ("text_encoder", "hidden_act", "relu", "`hidden_act` is 'relu'; supported: 'gelu', 'quick_gelu'"),
            ("text_encoder", "num_attention_heads", 5, "`num_attention_heads` is 5; it must divide `hidden_size`, 32"),
            ("text_encoder", "vocab_size", 0, "`vocab_size` is 0; it must be a size of 1 or more"),
            ("text_encoder", "hidden_size", "32", "`hidden_size` is '32'; it must be a size of 1 or more"),
            ("image_encoder", "image_size", 7, "`image_size` is 7; it must hold a patch of 14"),
            ("image_encoder", "num_channels", None, "`num_channels` is None; it must be a size of 1 or more"),
            ("prior", "added_emb_type", None, "`added_emb_type` is None; supported: 'prd'"),
            ("prior", "additional_embeddings", 5, "`additional_embeddings` is 5; supported: 4"),
            ("prior", "encoder_hid_proj_type", None, "`encoder_hid_proj_type` is None; supported: 'linear'"),
            ("prior", "embedding_proj_norm_type", "group", "`embedding_proj_norm_type` is 'group'; supported: None,"),
            ("prior", "norm_in_type", "batch", "`norm_in_type` is 'batch'; supported: None, 'layer'"),
            ("prior", "num_layers", -1, "`num_layers` is -1; it must be a size of 1 or more"),
            ("prior", "time_embed_dim", "x", "`time_embed_dim` is 'x'; it must be null or a size of 1 or more"),
            ("prior", "clip_embed_dim", 16, "`clip_embed_dim` is 16; the prior reads what it predicts"),
            ("prior", "_class_name", "Other", "`_class_name` is 'Other'; supported: 'PriorTransformer'"),
        ],
    )
    def test_unsupported(self, model: str, key: str, value: object, fault: str) -> None:
        (said,) = faults_of(lambda: build_models({model: sized(model, "tiny") | {key: value}}, "prior"))
        assert said.startswith(f"{model} config: {fault}")

    def test_all_at_once(self) -> None:
        configs = {
            "text_encoder": sized("text_encoder", "tiny") | {"hidden_act": "relu"},
            "prior": sized("prior", "tiny") | {"num_layers": 0, "added_emb_type": "x"},
        }
        assert len(faults_of(lambda: build_models(configs, "prior"))) == 3

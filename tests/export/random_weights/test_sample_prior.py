"""Priors with random weights: the published names, shapes and dtypes, with a tokenizer, whole or not at all."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.checkpoints.checkpoint import Expected
from kandinsky_export.checkpoints.prior_checkpoint import PRIOR_MODELS, PriorCheckpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.random_weights.configs import sized
from kandinsky_export.random_weights.sample_prior import write_sample_prior
from kandinsky_export.random_weights.seeded import seeded_tensor
from kandinsky_export.random_weights.vocabulary import small_vocabulary
from kandinsky_export.vendors import (
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PriorTransformer,
)
from kandinsky_runtime.errors import UsageError
from tests.export.prior_files import MICRO_PRIOR
from tests.tolerances import STANDARD_ERRORS

ExpectedTensors = dict[str, dict[str, Expected]]
MODELS = {
    "text_encoder": CLIPTextModelWithProjection,
    "image_encoder": CLIPVisionModelWithProjection,
    "prior": PriorTransformer,
}


def test_files(micro_prior: Path, micro_prior_diffusers: Path) -> None:
    for folder, libraries, weights in (
        (micro_prior, ("ppdiffusers.transformers", "ppdiffusers"), ["model_state.pdparams"] * 3),
        (
            micro_prior_diffusers,
            ("transformers", "diffusers"),
            ["model.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors"],
        ),
    ):
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert files == [
            "image_encoder/config.json",
            f"image_encoder/{weights[0]}",
            "image_processor/preprocessor_config.json",
            "model_index.json",
            "prior/config.json",
            f"prior/{weights[1]}",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            f"text_encoder/{weights[2]}",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
        ]
        index = json.loads((folder / "model_index.json").read_text())
        assert index["text_encoder"] == [libraries[0], "CLIPTextModelWithProjection"]
        assert index["prior"] == [libraries[1], "PriorTransformer"]
        assert index["_class_name"] == "KandinskyV22PriorPipeline"


@pytest.mark.parametrize("form", ["ppdiffusers", "diffusers"])
def test_values_depend_on_seed_and_name_only(
    form: str, micro_prior: Path, micro_prior_diffusers: Path, micro_prior_expected: ExpectedTensors
) -> None:
    folder = micro_prior if form == "ppdiffusers" else micro_prior_diffusers
    tensors = PriorCheckpoint.open(folder).tensors(micro_prior_expected)
    for component, expected in micro_prior_expected.items():
        for name, item in expected.items():
            want = seeded_tensor(0, f"{component}.{name}", item.torch_shape)
            got = tensors[component][name]()
            np.testing.assert_array_equal(got.T if item.transposed else got, want, err_msg=f"{component} {name}")


@pytest.mark.parametrize("model", PRIOR_MODELS)
def test_ppdiffusers_loads_its_form(model: str, micro_prior: Path, micro_prior_expected: ExpectedTensors) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        loaded = MODELS[model].from_pretrained(str(micro_prior / model))
    read = PriorCheckpoint.open(micro_prior).tensors(micro_prior_expected)[model]
    values = {name: parameter.numpy() for name, parameter in loaded.named_parameters()}
    assert set(values) == set(read)
    for name, array in values.items():
        np.testing.assert_array_equal(array, read[name](), err_msg=name)


@pytest.mark.parametrize(
    ("model", "bytes_each", "file_bytes"),
    [("text_encoder", 4, 2_778_702_976), ("image_encoder", 2, 3_689_912_664), ("prior", 4, 4_104_940_968)],
)
def test_the_full_size_is_the_published_one(model: str, bytes_each: int, file_bytes: int) -> None:
    """The published files' sizes, less the names and shapes at their heads."""
    built = build_models({model: sized(model, "full")}, "full")[model]
    parameters = sum(math.prod(item.shape) for item in expected_tensors(built).values())
    assert 0 < file_bytes - bytes_each * parameters < 150_000


def test_statistics(micro_prior_expected: ExpectedTensors, micro_prior: Path) -> None:
    """Deviations of embeddings are about 1, means about 0, tables about 1 / 2: activations stay in a sane range."""
    prior = PriorCheckpoint.open(micro_prior).tensors(micro_prior_expected)["prior"]
    assert np.all(np.abs(prior["clip_std"]() - 1) < 0.5)
    assert np.abs(prior["clip_mean"]()).max() < 1
    positions = prior["positional_embedding"]()
    standard_error = 1 / math.sqrt(2 * positions.size)
    assert positions.std() == pytest.approx(0.5, rel=STANDARD_ERRORS * standard_error)


def test_the_tokenizer_is_clips(micro_prior: Path) -> None:
    opened = PriorCheckpoint.open(micro_prior)
    assert opened.tokenizer.size == len(small_vocabulary().tokens)
    assert opened.components["text_encoder"].config["vocab_size"] == opened.tokenizer.size
    assert opened.tokenizer.config["eos_token"] == "<|endoftext|>"


class TestVocabulary:
    @pytest.fixture
    def given(self, micro_prior: Path, tmp_path: Path) -> Path:
        """A vocabulary of the user's: ours and one more token."""
        folder = tmp_path / "given"
        shutil.copytree(micro_prior / "tokenizer", folder)
        ids = json.loads((folder / "vocab.json").read_text()) | {"another": len(small_vocabulary().tokens)}
        (folder / "vocab.json").write_text(json.dumps(ids))
        return folder

    def test_given(self, given: Path, tmp_path: Path) -> None:
        write_sample_prior(tmp_path / "new", vocabulary=given, changes=MICRO_PRIOR)
        for name in ("vocab.json", "merges.txt"):
            assert (tmp_path / "new" / "tokenizer" / name).read_bytes() == (given / name).read_bytes()
        assert PriorCheckpoint.open(tmp_path / "new").components["text_encoder"].config["vocab_size"] == 835

    def test_larger_than_the_text_encoder(self, given: Path, tmp_path: Path) -> None:
        changes = {"text_encoder": {"vocab_size": 834}}
        with pytest.raises(UsageError, match="given has 835 tokens; the text encoder takes up to 834"):
            write_sample_prior(tmp_path / "new", vocabulary=given, changes=changes)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"vocab.json is missing[\s\S]*merges.txt is missing"):
            write_sample_prior(tmp_path / "new", vocabulary=tmp_path / "nowhere")
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "there is no size 'huge'; choose from tiny, full"),
        ({"form": "torch"}, "there is no form 'torch'; choose from ppdiffusers, diffusers"),
    ],
)
def test_unknown_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_sample_prior(tmp_path / "new", **options)
    assert str(caught.value) == message
    assert not list(tmp_path.iterdir())

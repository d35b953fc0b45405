"""Which of the files that Hugging Face lists are chosen, and what is said of those that are missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kandinsky_export.errors import CheckpointError
from tests.export.hub.checkpoint import COMMON, NAME, PLAIN, PUBLISHED, names, weights
from tests.export.hub.fake_huggingface import FakeHuggingFace, fetch_hf


def test_safetensors_are_chosen_and_nothing_else(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    assert names(fetch_hf(tmp_path)) == weights(".safetensors")


def test_the_fp16_variant_is_chosen_when_asked_for(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    assert names(fetch_hf(tmp_path, variant="fp16")) == weights(".fp16.safetensors")


SHARDED = (".safetensors.index.json", "-00001-of-00002.safetensors", "-00002-of-00002.safetensors")
SHARDED_FP16 = (
    ".safetensors.index.fp16.json",
    ".fp16-00001-of-00002.safetensors",
    ".fp16-00002-of-00002.safetensors",
)
SHARDED_FP16_AFTER = (
    ".safetensors.index.fp16.json",
    "-00001-of-00002.fp16.safetensors",
    "-00002-of-00002.fp16.safetensors",
)


@pytest.mark.parametrize("halves", [SHARDED_FP16, SHARDED_FP16_AFTER])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_chosen_with_their_index(
    variant: str | None, halves: tuple[str, ...], huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    huggingface.publish(weights(".bin", *SHARDED, *halves))
    assert names(fetch_hf(tmp_path, variant=variant)) == weights(*(halves if variant else SHARDED))


def test_components_decide_what_is_needed(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    extra = {"tokenizer/vocab.json", "tokenizer/merges.txt", "text_encoder/model.fp16.safetensors"}
    huggingface.publish(PUBLISHED | extra | {"tokenizer/tokenizer.model"})
    assert names(fetch_hf(tmp_path, components=("text_encoder", "tokenizer"))) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    }


def test_a_combined_pipeline_has_its_prior_in_folders_of_its_own(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    prior = {
        "prior_scheduler/scheduler_config.json",
        "prior_tokenizer/tokenizer.json",
        "prior_prior/config.json",
        "prior_prior/diffusion_pytorch_model.safetensors",
    }
    huggingface.publish(PUBLISHED | prior)
    assert names(fetch_hf(tmp_path / "prior", components=("prior", "tokenizer"))) == prior | {"model_index.json"}
    assert names(fetch_hf(tmp_path / "decoder")) == weights(".safetensors")
    huggingface.publish(PUBLISHED | prior - {"prior_tokenizer/tokenizer.json"})
    with pytest.raises(CheckpointError, match="prior_tokenizer/ has no .json or .txt file"):
        fetch_hf(tmp_path / "missing", components=("prior", "tokenizer"))


@pytest.mark.parametrize(
    ("published", "variant", "faults"),
    [
        (
            COMMON | {f"unet/{PLAIN}.fp16.bin", f"unet/{PLAIN}.safetensors", f"movq/{PLAIN}.fp16.safetensors"},
            "fp16",
            [f"unet/ has no complete fp16 weights in safetensors form; it holds {PLAIN}.fp16.bin, {PLAIN}.safetensors"],
        ),
        (
            weights(".bin") - {"model_index.json", "movq/config.json"},
            None,
            [
                "model_index.json is missing",
                "movq/config.json is missing",
                f"unet/ has no complete weights in safetensors form; it holds {PLAIN}.bin",
                f"movq/ has no complete weights in safetensors form; it holds {PLAIN}.bin",
            ],
        ),
        (
            weights(".safetensors") - {f"movq/{PLAIN}.safetensors"} | {f"movq/{PLAIN}{SHARDED[0]}"},
            None,
            [f"movq/ has no complete weights in safetensors form; it holds {PLAIN}.safetensors.index.json"],
        ),
        (
            weights(*SHARDED) - {f"unet/{PLAIN}{SHARDED[0]}"},
            None,
            [
                f"unet/ has no complete weights in safetensors form; "
                f"it holds {PLAIN}-00001-of-00002.safetensors, {PLAIN}-00002-of-00002.safetensors"
            ],
        ),
        (
            weights(*SHARDED) - {f"unet/{PLAIN}{SHARDED[2]}"},
            None,
            [
                f"unet/ has no complete weights in safetensors form; "
                f"it holds {PLAIN}-00001-of-00002.safetensors, {PLAIN}.safetensors.index.json"
            ],
        ),
    ],
)
def test_what_is_missing_is_listed_beside_what_there_is(
    published: set[str], variant: str | None, faults: list[str], huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    huggingface.server.files.clear()
    huggingface.publish(published)
    with pytest.raises(CheckpointError) as caught:
        fetch_hf(tmp_path, variant=variant)
    assert caught.value.subject == f"{NAME} on Hugging Face"
    assert list(caught.value.faults) == faults
    assert not any(".safetensors" in path for _, path, _ in huggingface.server.requests)


def test_a_component_that_is_not_there(huggingface: FakeHuggingFace, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fetch_hf(tmp_path, components=("prior", "tokenizer"))
    assert caught.value.faults == (
        "prior/config.json is missing",
        "prior/ has no complete weights in safetensors form; it holds nothing else",
        "tokenizer/ has no .json or .txt file; it holds nothing else",
    )

"""A checkpoint that is another model, or was saved inside a wrapper: the cause comes first, and alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected
from kandinsky_export.checkpoints.pdparams_writer import write_pdparams
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.checkpoints.tensor_names import wrapper_of
from kandinsky_export.errors import CheckpointError
from tests.export.checkpoints.weight_files import as_thunks, read_all
from tests.export.prior_files import change_json

ExpectedTensors = dict[str, dict[str, Expected]]


def refusal(work: Callable[[], object]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        work()
    return caught.value


class TestWrapped:
    @pytest.mark.parametrize(
        "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "unet.", "model.diffusion_model."]
    )
    def test_every_name(self, prefix: str, micro_copy: Path, micro_expected: ExpectedTensors) -> None:
        values = {f"{prefix}{name}": array for name, array in read_all(micro_copy, micro_expected)["unet"].items()}
        write_pdparams(micro_copy / "unet" / "model_state.pdparams", as_thunks(values))
        assert refusal(lambda: read_all(micro_copy, micro_expected)).faults == (
            f"unet: every name begins with `{prefix}`, as a model that is wrapped for training saves it; save the model"
            " inside the wrapper",
        )

    def test_old_names_inside(self) -> None:
        expected = {"encoder.attentions.0.to_q.weight", "encoder.attentions.0.to_k.weight"}
        stored = ["module.encoder.attentions.0.query.weight", "module.encoder.attentions.0.key.weight"]
        assert wrapper_of(stored, expected) == "module."

    @pytest.mark.parametrize(
        "stored", [[], ["module.a.b"], ["a.b", "a.c"], ["module.a.b", "a.c"], ["module.x", "module.y", "module.a.b"]]
    )
    def test_nothing_wrapped(self, stored: list[str]) -> None:
        assert wrapper_of(stored, {"a.b", "a.c"}) == ""


def test_at_most_twenty_faults_are_listed(micro_copy: Path, micro_expected: ExpectedTensors) -> None:
    values = {f"other{i}.weight": np.zeros(1, np.float32) for i in range(100)}
    write_pdparams(micro_copy / "unet" / "model_state.pdparams", as_thunks(values))
    error = refusal(lambda: read_all(micro_copy, micro_expected))
    assert len(error.faults) == 100 + len(micro_expected["unet"])
    lines = str(error).splitlines()
    assert len(lines) == 22  # what it is about, 20 faults, how many more
    assert lines[0].endswith(f": {len(error.faults)} faults:")
    assert lines[-1] == f"  - and {len(error.faults) - 20} more"


class TestRelatives:
    @pytest.mark.parametrize(
        ("config", "fault"),
        [
            (
                {"addition_embed_type": "image_hint"},
                "this is the ControlNet decoder of Kandinsky 2.2, which takes a depth",
            ),
            ({"addition_embed_type": "text_image"}, "this is a Kandinsky 2.1 decoder; it is not supported"),
            ({"encoder_hid_dim_type": "text_image_proj"}, "this is a Kandinsky 2.1 decoder; it is not supported"),
        ],
    )
    def test_by_the_config_of_the_unet(self, config: dict[str, Any], fault: str, micro_copy: Path) -> None:
        change_json(micro_copy / "unet" / "config.json", **config)
        (micro_copy / "unet" / "model_state.pdparams").unlink()
        (said,) = refusal(lambda: Checkpoint.open(micro_copy)).faults
        assert said.startswith(fault)
        assert said.endswith("take a Kandinsky 2.2 decoder for text-to-image or inpainting")

    @pytest.mark.parametrize(
        ("name", "fault"),
        [
            ("KandinskyV22ControlnetPipeline", "this is the ControlNet decoder of Kandinsky 2.2"),
            ("KandinskyV22ControlnetImg2ImgPipeline", "this is the ControlNet decoder of Kandinsky 2.2"),
            ("KandinskyPipeline", "this is a Kandinsky 2.1 decoder"),
            ("KandinskyInpaintCombinedPipeline", "this is a Kandinsky 2.1 decoder"),
            ("KandinskyPriorPipeline", "this is a Kandinsky 2.1 prior"),
            ("Kandinsky3Pipeline", "this is a Kandinsky 3 model"),
        ],
    )
    def test_by_the_pipeline(self, name: str, fault: str, micro_copy: Path, micro_prior_copy: Path) -> None:
        for folder in (micro_copy, micro_prior_copy):
            change_json(folder / "model_index.json", _class_name=name)
        (decoder,) = refusal(lambda: Checkpoint.open(micro_copy)).faults
        (prior,) = refusal(lambda: PriorCheckpoint.open(micro_prior_copy)).faults
        assert decoder.startswith(fault)
        assert prior.startswith(fault)
        assert prior.endswith("take a Kandinsky 2.2 prior")

    def test_a_prior_in_place_of_a_decoder_and_the_other_way(self, micro_copy: Path, micro_prior_copy: Path) -> None:
        for with_index in (True, False):
            if not with_index:
                for folder in (micro_copy, micro_prior_copy):
                    (folder / "model_index.json").unlink()
            (decoder,) = refusal(lambda: Checkpoint.open(micro_prior_copy)).faults
            (prior,) = refusal(lambda: PriorCheckpoint.open(micro_copy)).faults
            assert decoder == "this is a prior, and a decoder is wanted here; give the prior with --prior"
            assert prior == "this is a decoder, and a prior is wanted here (--prior)"

    @pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, json.dumps({"_class_name": []}).encode()])
    def test_an_index_that_says_nothing(self, content: bytes, micro_copy: Path) -> None:
        (micro_copy / "model_index.json").write_bytes(content)
        Checkpoint.open(micro_copy)
        (micro_copy / "model_index.json").unlink()
        Checkpoint.open(micro_copy)

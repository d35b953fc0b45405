"""Bundles with a prior: what is in them, what may be left out, and what does not fit.

Covers `without` and `graphs.prior_modules`, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, load

from kandinsky_export.bundle_export import export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models, expected_tensors, fill
from kandinsky_export.graphs.parts import PRIOR_PARTS
from kandinsky_export.prior_export import CONSTANTS, empty_picture_embeds
from kandinsky_export.random_weights.sample_prior import write_sample_prior
from kandinsky_export.vendors import paddle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import COMPONENTS, INPAINT, PICTURE_PROMPT, PROMPT
from kandinsky_runtime.bundle.spec import Range
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import TensorError, UsageError
from tests.export.prior_files import MICRO_PRIOR, change_json
from tests.tolerances import EMPTY_PICTURE

EMBEDS = ("clip_mean", "clip_std", "negative_image_embeds")
ExpectedTensors = dict[str, dict[str, Expected]]


def faults_of(work: Callable[[], object]) -> tuple[str, ...]:
    with pytest.raises(CheckpointError) as caught:
        work()
    return caught.value.faults


def constants(bundle: Path) -> dict[str, np.ndarray]:
    with np.load(bundle / CONSTANTS) as arrays:
        return {name: arrays[name] for name in arrays.files}


class TestContent:
    def test_files(self, micro_prior_bundle: Path) -> None:
        files = {path.relative_to(micro_prior_bundle).as_posix() for path in micro_prior_bundle.rglob("*")}
        each = ("model.json", "model-fp32.onnx", "weights-fp32.pdiparams")
        assert files >= {f"{name}/{file}" for name in PRIOR_PARTS for file in each}
        assert files >= {"tokenizer/vocab.json", "tokenizer/merges.txt", CONSTANTS}
        bundle = Bundle.open(micro_prior_bundle)
        assert not bundle.extra_files()
        bundle.check_content()

    def test_manifest(self, micro_prior_bundle: Path, micro_prior_diffusers: Path) -> None:
        manifest, prior = Bundle.open(micro_prior_bundle).manifest, PriorCheckpoint.open(micro_prior_diffusers)
        assert tuple(manifest.components) == (*COMPONENTS, *PRIOR_PARTS)
        assert manifest.tasks == (INPAINT, PROMPT, PICTURE_PROMPT)
        assert manifest.prior is not None
        assert manifest.prior.scheduler == prior.scheduler
        assert manifest.prior.image_processor == prior.image_processor
        assert manifest.prior.tokenizer_config == prior.tokenizer.config
        assert manifest.prior.eos_token_id == prior.components["text_encoder"].config["eos_token_id"] == 2
        for role, name in (("vocabulary", "vocab.json"), ("merges", "merges.txt")):
            there = micro_prior_diffusers / "tokenizer" / name
            assert (micro_prior_bundle / manifest.prior.tokenizer[role]).read_bytes() == there.read_bytes()
        source = manifest.source["prior"]
        assert (source["name"], source["form"]) == ("micro-prior", "diffusers")
        assert set(source["files"]) == {path.relative_to(micro_prior_diffusers).as_posix() for path in prior.files()}

    def test_signatures(self, micro_prior_bundle: Path) -> None:
        """As docs/bundle.md has them: whoever runs the graphs relies on these names, types and axes."""
        graphs = {name: item.spec for name, item in Bundle.open(micro_prior_bundle).manifest.components.items()}
        assert [str(tensor) for tensor in (*graphs["text_encoder"].inputs, *graphs["text_encoder"].outputs)] == [
            "input_ids int64 (batch, tokens)",
            "pool_mask float32 (batch, tokens)",
            "text_hidden_states float32 (batch, tokens, 32)",
            "text_embeds float32 (batch, 32)",
        ]
        assert [str(tensor) for tensor in (*graphs["image_encoder"].inputs, *graphs["image_encoder"].outputs)] == [
            "pixel_values float32 (batch, 3, 56, 56)",
            "image_embeds float32 (batch, 32)",
        ]
        assert [str(tensor) for tensor in (*graphs["prior"].inputs, *graphs["prior"].outputs)] == [
            "latents float32 (batch, 32)",
            "timestep float32 (batch)",
            "text_embeds float32 (batch, 32)",
            "text_hidden_states float32 (batch, tokens, 32)",
            "text_mask float32 (batch, tokens)",
            "predicted_image_embeds float32 (batch, 32)",
        ]
        assert graphs["text_encoder"].ranges["tokens"] == graphs["prior"].ranges["tokens"] == Range(1, 77)

    def test_constants(
        self, micro_prior_bundle: Path, micro_prior_diffusers: Path, micro_prior_expected: ExpectedTensors
    ) -> None:
        """The embeddings are those that ppdiffusers' own encoder makes of zeros, all layers in memory."""
        prior = PriorCheckpoint.open(micro_prior_diffusers)
        tensors, stored = prior.tensors(micro_prior_expected), constants(micro_prior_bundle)
        assert set(stored) == set(EMBEDS)
        assert {(array.shape, str(array.dtype)) for array in stored.values()} == {((1, 32), "float32")}
        for name in ("clip_mean", "clip_std"):
            np.testing.assert_array_equal(stored[name], tensors["prior"][name]())
        model = build_models({"image_encoder": prior.components["image_encoder"].config}, "micro")["image_encoder"]
        fill(model, tensors["image_encoder"])
        with paddle.no_grad():
            want = model(paddle.zeros([1, 3, 56, 56])).image_embeds.numpy()
        np.testing.assert_allclose(stored["negative_image_embeds"], want, atol=EMPTY_PICTURE)

    def test_graphs_hold_no_weights_of_their_own(self, micro_prior_bundle: Path) -> None:
        """All weights are shared between the formats, and nothing that the graphs do not read is among them."""
        for name in PRIOR_PARTS:
            model = load(micro_prior_bundle / name / "model-fp32.onnx", load_external_data=False)
            inside = [item for item in model.graph.initializer if item.data_location != TensorProto.EXTERNAL]
            assert sum(len(item.raw_data) for item in inside) < 1000
        text = (micro_prior_bundle / "prior" / "model.json").read_text()
        assert "clip_mean" not in text
        assert "eager_tmp" not in text

    def test_both_forms_give_the_same(
        self, micro_checkpoint: Path, micro_prior: Path, micro_prior_bundle: Path, tmp_path: Path
    ) -> None:
        prior = PriorCheckpoint.open(micro_prior)
        export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "new", name="micro", prior=prior)
        ours, other = (Bundle.open(folder).manifest for folder in (micro_prior_bundle, tmp_path / "new"))
        for path in (CONSTANTS, *(f"{name}/weights-fp32.pdiparams" for name in PRIOR_PARTS)):
            assert ours.files[path] == other.files[path]

    def test_too_many_tokens_are_refused(self, micro_prior_bundle: Path) -> None:
        with Graphs.open(micro_prior_bundle, "onnxruntime") as graphs:
            feeds = {"input_ids": np.zeros((1, 78), np.int64), "pool_mask": np.zeros((1, 78), np.float32)}
            with pytest.raises(TensorError, match="tokens must be at most 77"):
                graphs.engine("text_encoder").run(feeds)


class TestWithout:
    @pytest.mark.parametrize(
        ("without", "tasks"),
        [
            (("image_encoder",), (INPAINT, PROMPT)),
            (("text_encoder", "prior"), (INPAINT, PICTURE_PROMPT)),
            (("prior",), (INPAINT, PICTURE_PROMPT)),
            (tuple(PRIOR_PARTS), (INPAINT,)),
        ],
        ids=lambda item: ",".join(item),
    )
    def test_left_out(
        self,
        without: tuple[str, ...],
        tasks: tuple[str, ...],
        micro_checkpoint: Path,
        micro_prior: Path,
        micro_prior_bundle: Path,
        tmp_path: Path,
    ) -> None:
        """The embedding of no picture is there all the same: what a bundle for fixed prompts needs."""
        out, prior = tmp_path / "new", PriorCheckpoint.open(micro_prior)
        export_bundle(
            Checkpoint.open(micro_checkpoint), out, name="micro", prior=prior, without=without, variants=["paddle"]
        )
        bundle = Bundle.open(out)
        assert not bundle.extra_files()
        assert set(bundle.manifest.components) == {*COMPONENTS, *PRIOR_PARTS} - set(without)
        assert bundle.manifest.tasks == tasks
        np.testing.assert_array_equal(
            constants(out)["negative_image_embeds"], constants(micro_prior_bundle)["negative_image_embeds"]
        )

    def test_unknown(self, micro_checkpoint: Path, micro_prior: Path, tmp_path: Path) -> None:
        prior = PriorCheckpoint.open(micro_prior)
        with pytest.raises(UsageError, match="unet cannot be left out; choose from text_encoder, image_encoder, prior"):
            export_bundle(
                Checkpoint.open(micro_checkpoint), tmp_path / "new", name="micro", prior=prior, without=["unet"]
            )

    def test_no_prior(self, micro_checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="image_encoder can only be left out of a bundle with a prior"):
            export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "new", name="micro", without=["image_encoder"])


class TestEmptyPicture:
    def test_one_layer_at_a_time(self, micro_prior: Path) -> None:
        """No other layer ever gets its values: the full model would take 7.4 GB."""
        prior = PriorCheckpoint.open(micro_prior)
        config = prior.components["image_encoder"].config | {"num_hidden_layers": 3}
        model = build_models({"image_encoder": config}, "three layers")["image_encoder"]
        rng = np.random.default_rng(0)
        values = {
            name: rng.standard_normal(item.shape, np.float32) / 8 for name, item in expected_tensors(model).items()
        }
        got = empty_picture_embeds(model, {name: value.copy for name, value in values.items()})
        later = [p for layer in model.vision_model.encoder.layers[1:] for p in layer.parameters()]
        assert later
        assert not any(parameter._is_initialized() for parameter in later)
        fill(model, {name: value.copy for name, value in values.items()})
        with paddle.no_grad():
            want = model(paddle.zeros([1, 3, 56, 56])).image_embeds.numpy()
        np.testing.assert_allclose(got, want, atol=EMPTY_PICTURE)


class TestFit:
    """A prior that does not fit is refused before any work, with every reason."""

    @pytest.fixture
    def refused(self, micro_checkpoint: Path, tmp_path: Path) -> Callable[[Path], tuple[str, ...]]:
        def faults(prior: Path) -> tuple[str, ...]:
            opened = PriorCheckpoint.open(prior)
            out = tmp_path / "new"
            said = faults_of(lambda: export_bundle(Checkpoint.open(micro_checkpoint), out, name="x", prior=opened))
            assert not out.exists()
            return said

        return faults

    def test_another_width(self, refused: Callable[[Path], tuple[str, ...]], tmp_path: Path) -> None:
        width = {"embedding_dim": 48}
        changes = {
            "text_encoder": {**MICRO_PRIOR["text_encoder"], "hidden_size": 48, "projection_dim": 48},
            "image_encoder": {**MICRO_PRIOR["image_encoder"], "projection_dim": 48},
            "prior": {**MICRO_PRIOR["prior"], **width},
        }
        write_sample_prior(tmp_path / "wide", changes=changes)
        assert refused(tmp_path / "wide") == (
            "it makes embeddings of width 48; the decoder takes 32: take the prior of this decoder",
        )

    @pytest.mark.parametrize(
        ("file", "changes", "fault"),
        [
            ("text_encoder/config.json", {"hidden_size": 64}, "text_encoder config: `hidden_size` is 64; the prior"),
            ("text_encoder/config.json", {"projection_dim": 8}, "text_encoder config: `projection_dim` is 8; the"),
            ("image_encoder/config.json", {"projection_dim": 8}, "image_encoder config: `projection_dim` is 8; the"),
            ("text_encoder/config.json", {"max_position_embeddings": 70}, "`max_position_embeddings` is 70; the prior"),
            ("text_encoder/config.json", {"vocab_size": 700}, "tokenizer: it has 834 tokens; the text encoder takes"),
            ("text_encoder/config.json", {"eos_token_id": "x"}, "`eos_token_id` is 'x'; expected a whole number"),
            ("prior/config.json", {"num_embeddings": 64}, "tokenizer: `model_max_length` is 77; the prior takes"),
            ("tokenizer/tokenizer_config.json", {"model_max_length": 99}, "`model_max_length` is 99; the prior takes"),
            (
                "image_processor/preprocessor_config.json",
                {"crop_size": 224, "size": 224},
                "`crop_size` is 224; the image encoder",
            ),
            ("scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"}, "its scheduler is DDPMScheduler"),
            ("scheduler/scheduler_config.json", {"prediction_type": "x"}, "prediction_type"),
        ],
    )
    def test_parts_that_do_not_fit(
        self,
        file: str,
        changes: dict[str, object],
        fault: str,
        micro_prior_copy: Path,
        refused: Callable[[Path], tuple[str, ...]],
    ) -> None:
        change_json(micro_prior_copy / file, **changes)
        said = refused(micro_prior_copy)
        assert any(fault in item for item in said), said

    def test_all_at_once(self, micro_prior_copy: Path, refused: Callable[[Path], tuple[str, ...]]) -> None:
        change_json(micro_prior_copy / "image_encoder" / "config.json", projection_dim=8)
        change_json(micro_prior_copy / "text_encoder" / "config.json", vocab_size=9)
        change_json(micro_prior_copy / "image_processor" / "preprocessor_config.json", crop_size={"height": 1})
        assert len(refused(micro_prior_copy)) == 3

    def test_a_missing_tensor(self, micro_prior_copy: Path, refused: Callable[[Path], tuple[str, ...]]) -> None:
        change_json(micro_prior_copy / "prior" / "config.json", num_layers=2)
        said = refused(micro_prior_copy)
        assert len(said) == 16  # a block's tensors
        assert all(item.startswith("prior: `transformer_blocks.1.") for item in said)


def test_eos_token_id_of_newer_configs(
    micro_checkpoint: Path, micro_prior_copy: Path, micro_prior: Path, tmp_path: Path
) -> None:
    change_json(micro_prior_copy / "text_encoder" / "config.json", eos_token_id=833)
    prior = PriorCheckpoint.open(micro_prior_copy)
    export_bundle(
        Checkpoint.open(micro_checkpoint), tmp_path / "new", name="x", prior=prior, without=tuple(PRIOR_PARTS)
    )
    assert json.loads((tmp_path / "new" / "manifest.json").read_text())["prior"]["eos_token_id"] == 833


@pytest.mark.parametrize(
    ("without", "measured"),
    [
        ("text_encoder", {"image_encoder": "fp16", "prior": "fp32"}),
        ("image_encoder", {"text_encoder": "fp16", "prior": "fp16"}),
    ],
)
def test_a_prior_that_cannot_be_asked_stays_in_float32(
    without: str, measured: dict[str, str], micro_checkpoint: Path, micro_prior: Path, tmp_path: Path
) -> None:
    export_bundle(
        Checkpoint.open(micro_checkpoint),
        tmp_path / "bundle",
        name="micro",
        prior=PriorCheckpoint.open(micro_prior),
        prior_name="prior",
        variants=("onnx-fp32", "onnx-fp16"),
        without=(without,),
    )
    bundle = Bundle.open(tmp_path / "bundle")
    stored = {name: bundle.component(name).variants["onnx-fp16"] for name in measured}
    assert without not in bundle.manifest.components
    assert {name: variant.computed for name, variant in stored.items()} == measured
    for variant in stored.values():
        unknown = variant.numerics["float32"] == [{"reason": "no run is measured", "nodes": {}}]
        assert unknown == (variant.computed == "fp32")

"""Verification of a prior: good bundles pass, bad ones fail and say where.

Covers `prior_reference`, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.checkpoints.checkpoint import Checkpoint, Expected
from kandinsky_export.checkpoints.prior_checkpoint import PriorCheckpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.parts import PRIOR_PARTS
from kandinsky_export.prior_export import CONSTANTS
from kandinsky_export.random_weights.sample_prior import write_sample_prior
from kandinsky_export.verification.prior_reference import PriorReference
from kandinsky_export.verification.report import Report
from kandinsky_export.verification.verify import verify_bundle
from kandinsky_export.verification.verify_prior import NEGATIVE_EMBEDS
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import UsageError
from tests.export.prior_files import MICRO_PRIOR, change_json
from tests.tolerances import PRIOR_GRAPH

ENGINES = ("onnxruntime", "paddle")
COMPARED = {*PRIOR_PARTS, NEGATIVE_EMBEDS}
ExpectedTensors = dict[str, dict[str, Expected]]


@pytest.fixture
def bundle(micro_prior_bundle: Path, tmp_path: Path) -> Path:
    """A copy, to change."""
    return Path(shutil.copytree(micro_prior_bundle, tmp_path / "bundle"))


def verified(bundle: Path, checkpoint: Path, prior: Path, engines: tuple[str, ...] = ENGINES) -> Report:
    opened = PriorCheckpoint.open(prior)
    return verify_bundle(Bundle.open(bundle), Checkpoint.open(checkpoint), prior=opened, engine_names=engines, steps=0)


def rewrite(bundle: Path, path: str, content: bytes) -> None:
    """Change a file in a bundle and leave the manifest consistent."""
    (bundle / path).write_bytes(content)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    files[path] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change_json(bundle / "manifest.json", files=files)


def test_every_engine_passes(bundle: Path, micro_checkpoint: Path, micro_prior: Path) -> None:
    """With the weights in the other form, too."""
    report = verified(bundle, micro_checkpoint, micro_prior)
    assert report.passed, report.table()
    for figures in report.engines.values():
        assert set(figures.components) >= COMPARED
        assert max(figures.components[name] for name in COMPARED) < PRIOR_GRAPH
    assert Bundle.open(bundle).manifest.parity["engines"]["paddle"]["components"].keys() >= COMPARED


def test_the_shapes(micro_prior: Path) -> None:
    """One token, all 77, and batches with padding in them."""
    reference = PriorReference(PriorCheckpoint.open(micro_prior))
    for component, name in (("text_encoder", "pool_mask"), ("prior", "text_mask")):
        feeds = reference.feeds(component)
        assert {item[name].shape[1] for item in feeds} >= {1, 77}
        assert {len(item[name]) for item in feeds} == {1, 2, 3}
        lengths = [item[name].shape[1] - 1 - item[name][:, ::-1].argmax(axis=1) for item in feeds]
        assert any(len(set(each)) > 1 for each in lengths)
    for item in reference.feeds("text_encoder"):
        np.testing.assert_array_equal(item["pool_mask"].argmax(axis=1), item["input_ids"].argmax(axis=1))
    pictures = reference.feeds("image_encoder")
    assert not pictures[0]["pixel_values"].any()
    assert [len(item["pixel_values"]) for item in pictures] == [1, 2, 3]


def test_pooling_of_newer_configs(micro_prior_copy: Path) -> None:
    """There the end of a text is the first token of that id, wherever larger ones are."""
    change_json(micro_prior_copy / "text_encoder" / "config.json", eos_token_id=300)
    for item in PriorReference(PriorCheckpoint.open(micro_prior_copy)).feeds("text_encoder"):
        first = (item["input_ids"] == 300).argmax(axis=1)
        np.testing.assert_array_equal(item["pool_mask"].argmax(axis=1), first)
        assert (item["input_ids"][item["pool_mask"].cumsum(axis=1) == 0] != 300).all()


@pytest.mark.parametrize(
    ("component", "tensor"),
    [
        ("text_encoder", "text_model.embeddings.position_embedding.weight"),
        ("text_encoder", "text_projection.weight"),
        ("image_encoder", "vision_model.embeddings.patch_embedding.weight"),
        ("prior", "prd_embedding"),
        ("prior", "positional_embedding"),
    ],
)
def test_a_changed_weight_fails(
    component: str,
    tensor: str,
    bundle: Path,
    micro_checkpoint: Path,
    micro_prior: Path,
    micro_prior_expected: ExpectedTensors,
) -> None:
    values = PriorCheckpoint.open(micro_prior).tensors(micro_prior_expected)[component][tensor]()
    path = f"{component}/weights-fp32.pdiparams"
    content = (bundle / path).read_bytes()
    assert content.count(values.tobytes()) == 1
    rewrite(bundle, path, content.replace(values.tobytes(), (values * np.float32(1.01)).tobytes()))
    report = verified(bundle, micro_checkpoint, micro_prior, engines=("paddle",))
    assert not report.passed
    (failure,) = report.engines["paddle"].failures()
    assert failure.startswith(component)


def test_changed_embeddings_of_no_picture_fail(bundle: Path, micro_checkpoint: Path, micro_prior: Path) -> None:
    with np.load(bundle / CONSTANTS) as arrays:
        changed = {name: arrays[name] * np.float32(1.01) for name in arrays.files}
    np.savez(bundle / "other.npz", **changed)
    content = (bundle / "other.npz").read_bytes()
    (bundle / "other.npz").unlink()
    rewrite(bundle, CONSTANTS, content)
    report = verified(bundle, micro_checkpoint, micro_prior, engines=("paddle",))
    (failure,) = report.engines["paddle"].failures()
    assert failure.startswith(NEGATIVE_EMBEDS)


def test_another_prior_is_named(bundle: Path, micro_checkpoint: Path, tmp_path: Path) -> None:
    write_sample_prior(tmp_path / "other", seed=1, form="diffusers", changes=MICRO_PRIOR)
    report = verified(bundle, micro_checkpoint, tmp_path / "other", engines=("paddle",))
    assert {failure.split()[0] for failure in report.engines["paddle"].failures()} >= COMPARED
    assert report.note is not None
    assert report.note.endswith(
        "the bundle was not made from this prior's text_encoder/model.safetensors, image_encoder/model.safetensors,"
        " prior/diffusion_pytorch_model.safetensors"
    )


def test_another_build(bundle: Path, micro_checkpoint: Path, micro_prior_copy: Path) -> None:
    change_json(micro_prior_copy / "image_encoder" / "config.json", image_size=70)
    with pytest.raises(CheckpointError, match=r"image_encoder|position_embedding"):
        verified(bundle, micro_checkpoint, micro_prior_copy)


def test_a_bundle_without_a_prior(micro_bundle: Path, micro_checkpoint: Path, micro_prior: Path) -> None:
    with pytest.raises(UsageError, match="has no prior: leave out --prior, or export the bundle again with one"):
        verified(micro_bundle, micro_checkpoint, micro_prior)


def test_no_prior_given_is_said(bundle: Path, micro_checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        report = verify_bundle(Bundle.open(bundle), Checkpoint.open(micro_checkpoint), engine_names=["paddle"], steps=0)
    assert not COMPARED & set(report.engines["paddle"].components)
    assert "the bundle's prior is not compared: give it with --prior" in caplog.text


def test_only_what_the_bundle_has(micro_checkpoint: Path, micro_prior: Path, tmp_path: Path) -> None:
    from kandinsky_export.bundle_export import export_bundle

    options: Mapping[str, Any] = {"prior": PriorCheckpoint.open(micro_prior), "without": ["image_encoder"]}
    export_bundle(Checkpoint.open(micro_checkpoint), tmp_path / "new", name="x", variants=["paddle"], **options)
    report = verified(tmp_path / "new", micro_checkpoint, micro_prior, engines=("paddle",))
    assert report.passed
    assert set(report.engines["paddle"].components) >= {"text_encoder", "prior", NEGATIVE_EMBEDS}
    assert "image_encoder" not in report.engines["paddle"].components

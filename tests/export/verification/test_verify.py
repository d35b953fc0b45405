"""Verification: good bundles pass, bad ones fail and say where, and the figures are kept.

Covers `decibels`, `reference`, `report`, `trajectory` and the sample picture, too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.bundle_export import PARTS, export_bundle
from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models, expected_tensors
from kandinsky_export.random_weights.sample_checkpoint import write_sample_checkpoint
from kandinsky_export.verification import verify
from kandinsky_export.verification.report import EngineFigures, Report, TrajectoryFigures
from kandinsky_export.verification.verify import select_engines, verify_bundle
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.errors import BundleError, EngineUnavailable, UsageError
from tests.export.conftest import MICRO
from tests.tolerances import TRAJECTORY_STEP

ENGINES = ("onnxruntime", "paddle")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and its bundle whose trajectories take no time: few latents to a pixel."""
    folder = tmp_path_factory.mktemp("quick")
    write_sample_checkpoint(folder / "checkpoint", changes={"unet": MICRO["unet"]})
    export_bundle(Checkpoint.open(folder / "checkpoint"), folder / "bundle", name="quick", variants=["paddle"])
    return folder / "checkpoint", folder / "bundle"


@pytest.fixture
def quick_copy(quick: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies, to change."""
    checkpoint, bundle = (Path(shutil.copytree(item, tmp_path / item.name)) for item in quick)
    return checkpoint, bundle


@pytest.fixture(scope="module")
def verified(tiny_bundle: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A verified copy of the tiny bundle, and what was reported."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("verified") / "bundle"))
    return folder, verify_bundle(Bundle.open(folder), Checkpoint.open(tiny_checkpoint), engine_names=ENGINES, steps=3)


@pytest.fixture
def bundle(micro_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the smallest bundle, to change."""
    return Path(shutil.copytree(micro_bundle, tmp_path / "bundle"))


def change_weights(bundle: Path, component: str, checkpoint: Path, name: str) -> None:
    """Change a weight in a bundle and leave the manifest consistent: only the numbers differ."""
    models = {key: item.config for key, item in Checkpoint.open(checkpoint).components.items()}
    expected = {key: expected_tensors(model) for key, model in build_models(models, "checkpoint").items()}
    values = Checkpoint.open(checkpoint).tensors(expected)[PARTS[component].model][name]()
    weights = bundle / component / "weights-fp32.pdiparams"
    content = weights.read_bytes()
    assert content.count(values.tobytes()) == 1
    content = content.replace(values.tobytes(), (values * np.float32(1.01)).tobytes())
    weights.write_bytes(content)
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    files[f"{component}/{weights.name}"]["sha256"] = hashlib.sha256(content).hexdigest()
    change_json(bundle / "manifest.json", {"files": files})


def change_json(file: Path, changes: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestGoodBundles:
    def test_every_engine_passes(self, verified: tuple[Path, Report]) -> None:
        _, report = verified
        assert report.passed, report.table()
        assert tuple(report.engines) == ENGINES
        assert report.note is None
        for figures in report.engines.values():
            assert set(figures.components) == {"unet", "movq_encoder", "movq_decoder"}
            assert figures.trajectory is not None
            assert figures.trajectory.steps == 3
            assert len(figures.trajectory.unet) == len(figures.trajectory.latents) == 3
            assert max(figures.trajectory.latents_relative) < TRAJECTORY_STEP
        assert report.engines["paddle"].components["unet"] == 0  # the same kernels

    def test_shapes_are_told_apart(self, verified: tuple[Path, Report]) -> None:
        """Batch, height and width each differ from the other two somewhere."""
        _, report = verified
        for shapes in report.shapes.values():
            assert len(set(shapes)) == 5
            assert {shape[0] for shape in shapes} == {1, 2, 3}
            assert {shape[2] > shape[3] for shape in shapes} == {True, False}

    def test_figures_are_kept(self, verified: tuple[Path, Report], tiny_bundle: Path) -> None:
        folder, report = verified
        after, before = Bundle.open(folder), Bundle.open(tiny_bundle)
        assert after.manifest.parity == json.loads(json.dumps(report.to_dict()))
        assert after.manifest.parity["passed"] is True
        assert after.manifest.files == before.manifest.files
        assert after.manifest.components == before.manifest.components
        assert not after.extra_files()
        after.check_content()

    def test_table(self, verified: tuple[Path, Report]) -> None:
        _, report = verified
        lines = report.table().splitlines()
        assert lines[0].startswith("max-abs difference from eager ppdiffusers 0.29.0")
        assert lines[-1] == "passed"
        assert len(report.table(every_step=True).splitlines()) == len(lines) + 2 * (1 + 3)


class TestOtherCheckpoints:
    def test_the_other_form_of_the_same_weights(self, bundle: Path, micro_checkpoint_diffusers: Path) -> None:
        report = verify_bundle(
            Bundle.open(bundle), Checkpoint.open(micro_checkpoint_diffusers), engine_names=ENGINES, steps=0
        )
        assert report.passed
        assert report.note is None

    def test_other_weights(self, bundle: Path, tmp_path: Path) -> None:
        write_sample_checkpoint(tmp_path / "other", seed=1, changes=MICRO)
        report = verify_bundle(Bundle.open(bundle), Checkpoint.open(tmp_path / "other"), engine_names=ENGINES, steps=0)
        assert not report.passed
        assert report.note == (
            "the bundle was not made from this checkpoint's unet/model_state.pdparams, movq/model_state.pdparams"
        )
        assert report.table().splitlines()[-2:] == [report.note, "FAILED"]

    @pytest.mark.parametrize(
        ("changes", "component"),
        [({"unet": {"encoder_hid_dim": 48}}, "unet"), ({"movq": {"in_channels": 4}}, "movq_encoder")],
    )
    def test_another_build(
        self, changes: Mapping[str, Mapping[str, Any]], component: str, bundle: Path, tmp_path: Path
    ) -> None:
        merged = {key: {**MICRO[key], **changes.get(key, {})} for key in MICRO}
        write_sample_checkpoint(tmp_path / "other", changes=merged)
        before = (bundle / "manifest.json").read_bytes()
        with pytest.raises(CheckpointError) as caught:
            verify_bundle(Bundle.open(bundle), Checkpoint.open(tmp_path / "other"), engine_names=ENGINES, steps=0)
        (fault,) = caught.value.faults
        assert fault.startswith(f"{component} is another build of the model: ")
        assert (bundle / "manifest.json").read_bytes() == before

    @pytest.mark.parametrize(
        "scheduler", [{"_class_name": "DDIMScheduler"}, {"clip_sample": True}, {"variance_type": "learned_range"}]
    )
    def test_other_schedulers(self, scheduler: Mapping[str, Any], quick_copy: tuple[Path, Path]) -> None:
        """The trajectory is the reference's DDPM with the checkpoint's settings, whatever its own method is."""
        checkpoint, folder = quick_copy
        change_json(checkpoint / "scheduler" / "scheduler_config.json", scheduler)
        config = json.loads((checkpoint / "scheduler" / "scheduler_config.json").read_text())
        change_json(folder / "manifest.json", {"scheduler": config})
        report = verify_bundle(Bundle.open(folder), Checkpoint.open(checkpoint), steps=2)
        assert report.passed, report.table()

    def test_a_scheduler_config_that_cannot_be_used(self, micro_copy: Path, bundle: Path) -> None:
        change_json(micro_copy / "scheduler" / "scheduler_config.json", {"beta_schedule": "steep"})
        with pytest.raises(CheckpointError, match="scheduler config: ppdiffusers: steep"):
            verify_bundle(Bundle.open(bundle), Checkpoint.open(micro_copy), steps=1)


class TestBadBundles:
    @pytest.mark.parametrize(
        ("component", "weight"),
        [
            ("unet", "conv_out.weight"),
            ("movq_encoder", "quant_conv.weight"),
            ("movq_decoder", "decoder.conv_out.weight"),
        ],
    )
    def test_a_changed_weight_fails_where_it_is(
        self, component: str, weight: str, bundle: Path, micro_checkpoint: Path
    ) -> None:
        change_weights(bundle, component, micro_checkpoint, weight)
        report = verify_bundle(Bundle.open(bundle), Checkpoint.open(micro_checkpoint), engine_names=ENGINES, steps=0)
        assert not report.passed
        assert tuple(report.engines) == ENGINES
        for figures in report.engines.values():
            (failure,) = figures.failures()
            assert failure.startswith(f"{component} ")
            assert failure.endswith("> 0.0001")
        assert report.note is None  # the checkpoint is the one
        assert Bundle.open(bundle).manifest.parity["passed"] is False
        assert f"outside the tolerance: {component}" in report.table()

    def test_a_changed_weight_fails_the_trajectory(self, quick_copy: tuple[Path, Path]) -> None:
        checkpoint, folder = quick_copy
        change_weights(folder, "movq_decoder", checkpoint, "decoder.conv_out.weight")
        report = verify_bundle(Bundle.open(folder), Checkpoint.open(checkpoint), steps=1)
        failures = report.engines["paddle"].failures()
        assert [failure.split()[0] for failure in failures] == ["movq_decoder", "trajectory"]

    def test_a_change_that_the_manifest_tells(self, bundle: Path, micro_checkpoint: Path) -> None:
        with (bundle / "unet" / "weights-fp32.pdiparams").open("r+b") as stream:
            stream.seek(-1, 2)
            stream.write(b"\x77")
        with pytest.raises(BundleError, match="unet/weights-fp32.pdiparams has changed"):
            verify_bundle(Bundle.open(bundle), Checkpoint.open(micro_checkpoint), engine_names=ENGINES, steps=0)

    def test_figures_that_cannot_be_kept(
        self,
        bundle: Path,
        micro_checkpoint: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A bundle on a disk that cannot be written can be verified all the same."""

        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(verify, "write_whole", refuse)
        with caplog.at_level(logging.WARNING):
            report = verify_bundle(
                Bundle.open(bundle), Checkpoint.open(micro_checkpoint), engine_names=ENGINES, steps=0
            )
        assert report.passed
        assert caplog.messages == [
            "the figures cannot be written into the bundle's manifest: [Errno 30] Read-only file system"
        ]


class TestRequests:
    def test_engines(self, micro_bundle: Path) -> None:
        opened = Bundle.open(micro_bundle)
        assert set(select_engines(opened, None)) >= set(ENGINES)
        assert select_engines(opened, ["paddle", "onnxruntime:fp32", "paddle:fp32"]) == ("paddle", "onnxruntime")
        with pytest.raises(UsageError, match="int4"):
            select_engines(opened, ["paddle:int4"])
        with pytest.raises(UsageError, match="no engine"):
            select_engines(opened, ["tensorflow"])
        with pytest.raises(UsageError, match="got no engine to verify; choose from .*onnxruntime, paddle"):
            select_engines(opened, [])

    def test_engines_that_the_bundle_has_nothing_for(self, quick: tuple[Path, Path]) -> None:
        opened = Bundle.open(quick[1])
        assert select_engines(opened, None) == ("paddle",)
        with pytest.raises(EngineUnavailable, match="engine onnxruntime needs variant onnx-fp32"):
            select_engines(opened, ["onnxruntime"])

    @pytest.mark.parametrize(("steps", "message"), [(-1, "it must be at least 0"), (1001, "scheduler has 1000")])
    def test_steps(self, steps: int, message: str, micro_bundle: Path, micro_checkpoint: Path) -> None:
        with pytest.raises(UsageError, match=message):
            verify_bundle(Bundle.open(micro_bundle), Checkpoint.open(micro_checkpoint), steps=steps)


class TestFigures:
    def figures(self, unet: float, image: float) -> EngineFigures:
        trajectory = TrajectoryFigures(1, 0.0, (0.0,), (0.0,), (0.0,), image, None)
        return EngineFigures("1", "fp32", "paddle", {"unet": unet}, trajectory)

    def test_other_precisions_are_not_judged(self) -> None:
        figures = replace(self.figures(1.0, 1.0), precision="bf16")
        assert figures.failures() == []
        assert Report("r", {}, {"a": figures}).table().splitlines()[-2:] == [
            "  bf16 has no tolerance: not judged",
            "passed",
        ]
        assert replace(self.figures(float("nan"), 0.0), precision="bf16").failures() == ["unet nan > inf"]

    @pytest.mark.parametrize(
        ("unet", "image", "failures"),
        [
            (0.0, 0.0, []),
            (1e-4, 1e-3, []),
            (2e-4, 0.0, ["unet 2.0e-04 > 0.0001"]),
            (0.0, 2e-3, ["trajectory 2.0e-03 > 0.001"]),
            (float("nan"), float("nan"), ["unet nan > 0.0001", "trajectory nan > 0.001"]),
            (float("inf"), 0.0, ["unet inf > 0.0001"]),
        ],
    )
    def test_failures(self, unet: float, image: float, failures: list[str]) -> None:
        figures = self.figures(unet, image)
        assert figures.failures() == failures
        assert Report("r", {}, {"a": self.figures(0, 0), "b": figures}).passed is (not failures)

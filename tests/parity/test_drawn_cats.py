"""The promises on trained weights: the checkpoints that come with the package, against diffusers over whole runs.

Activations of trained weights are not those of random ones, so what holds there must be shown here again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_export.cli import main as k22_export
from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.engines.openvino.processor import has_bf16
from kandinsky_runtime.prior.pipeline import PriorPipeline
from scripts.goldens import drawn_cats as golden
from tests.tolerances import TRAJECTORY

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "drawn_cats.npz"
ENGINES = ("onnxruntime", "openvino", "paddle")
# In dB, of the latents of a step; benchmarks/RESULTS.md has what was measured.
FP16_PSNR, BF16_PSNR = 70, 50

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor does not compute in bf16")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "bundle"
    arguments = ["bundle", "drawn-cats/decoder-inpaint", "--prior", "drawn-cats/prior", "--out", str(folder), "--quiet"]
    variants = "paddle,onnx-fp32,onnx-fp16"
    assert k22_export([*arguments, "--variants", variants]) == 0
    return folder


def run(pipeline: InpaintPipeline, name: str, **options: Any) -> tuple[np.ndarray, list[np.ndarray]]:
    """The picture of a case, and the latents after every step."""
    case, latents = golden.CASES[name], []

    def on_step_end(owner: Any, _: int, __: float, values: dict[str, np.ndarray]) -> None:
        if not isinstance(owner, PriorPipeline):
            latents.append(values["latents"].copy())

    output = pipeline(
        case.prompt, image=golden.picture(name), mask_image=golden.mask(), composite="none", seed=golden.SEED,
        num_inference_steps=case.steps, scheduler=case.scheduler, guidance_scale=golden.GUIDANCE,
        prior_num_inference_steps=golden.PRIOR_STEPS, prior_guidance_scale=golden.PRIOR_GUIDANCE, output_type="np",
        callback_on_step_end=on_step_end, **options,
    )  # fmt: skip
    return output.images, latents


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", golden.CASES)
def test_whole_runs_equal_diffusers(name: str, engine: str, bundle: Path) -> None:
    with np.load(GOLDEN) as record, InpaintPipeline.load(bundle, engine=engine, precision="fp32") as pipeline:
        image, latents = run(pipeline, name)
        wanted = record[f"{name}/latents"]
        assert len(latents) == len(wanted) == golden.CASES[name].steps
        for step, (mine, theirs) in enumerate(zip(latents, wanted, strict=True), start=1):
            error = np.abs(mine - theirs).max() / np.abs(theirs).max()
            assert error < TRAJECTORY, f"step {step} of {len(wanted)}: {error:.2g}"
        np.testing.assert_allclose(image, record[f"{name}/image"], rtol=0, atol=TRAJECTORY)


@pytest.mark.parametrize(
    ("engine", "precision", "least"),
    [
        ("onnxruntime", "fp16", FP16_PSNR),
        pytest.param("openvino", "bf16", BF16_PSNR, marks=needs_bf16),
    ],
)
def test_every_step_in_16_bits_is_near_float32(engine: str, precision: str, least: float, bundle: Path) -> None:
    with np.load(GOLDEN) as record, InpaintPipeline.load(bundle, engine=engine, precision=precision) as pipeline:
        _, latents = run(pipeline, "hat")
        for mine, theirs in zip(latents, record["hat/latents"], strict=True):
            assert decibels(theirs, mine, float(np.ptp(theirs))) > least


def test_the_golden_is_of_these_weights() -> None:
    """So that new weights without a new record are noticed."""
    with np.load(GOLDEN) as record:
        assert str(record["weights"]) == golden.weights_digest()


def test_the_size_that_was_promised() -> None:
    assert sum(path.stat().st_size for path in golden.CHECKPOINTS.rglob("*") if path.is_file()) <= 25_000_000

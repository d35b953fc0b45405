"""Whole trajectories against diffusers' own pipeline: golden arrays, remade by scripts/regen_goldens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from scripts.goldens import trajectories as golden
from tests.golden import GOLDEN
from tests.parity.conftest import ENGINES
from tests.tolerances import DIFFUSERS_FIXTURE, TRAJECTORY


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", golden.CASES)
def test_same_seed_same_trajectory(
    case: str,
    engine: str,
    case_checkpoint: Callable[[str], Path],
    case_pipeline: Callable[[str, str], InpaintPipeline],
) -> None:
    latents: list[np.ndarray] = []

    def on_step_end(_: InpaintPipeline, __: int, ___: float, values: dict[str, np.ndarray]) -> None:
        latents.append(values["latents"].copy())

    with np.load(case_checkpoint(case) / "image_embeds.npz") as embeds:
        output = case_pipeline(case, engine)(
            golden.picture(),
            golden.mask(),
            **{name: embeds[name] for name in embeds.files},
            num_inference_steps=golden.STEPS,
            guidance_scale=golden.GUIDANCE_SCALE,
            seed=golden.SEED,
            output_type="np",
            composite="none",
            callback_on_step_end=on_step_end,
        )
    with np.load(GOLDEN / "trajectories.npz") as arrays:
        for step, (mine, want) in enumerate(zip(latents, arrays[f"{case}/latents"], strict=True)):
            error = np.abs(mine - want).max() / np.abs(want).max()
            assert error <= TRAJECTORY, f"step {step + 1}: relative {error:.1e}; remake with scripts/regen_goldens"
        error = np.abs(output.images - arrays[f"{case}/image"]).max()
    assert error <= TRAJECTORY, f"picture: {error:.1e}; remake with scripts/regen_goldens"


@pytest.mark.parametrize("engine", ENGINES)
def test_published_fixture(engine: str, tmp_path: Path) -> None:
    """The inpainting test of diffusers' own suite: a DDIM config, 64 px, 2 steps, guidance 4."""
    from kandinsky_export.bundle_export import export_bundle
    from kandinsky_export.checkpoints.checkpoint import Checkpoint

    export_bundle(Checkpoint.open(GOLDEN / "diffusers_fixture"), tmp_path / "bundle", name="fixture")
    pipeline = InpaintPipeline.load(tmp_path / "bundle", engine=engine, precision="fp32")
    output = pipeline(**golden.fixture_inputs(), seed=0, output_type="np", composite="none")
    assert output.images.shape == (1, 64, 64, 3)
    np.testing.assert_allclose(
        output.images[0, -3:, -3:, -1].ravel(), golden.FIXTURE_SLICE, rtol=0, atol=DIFFUSERS_FIXTURE
    )

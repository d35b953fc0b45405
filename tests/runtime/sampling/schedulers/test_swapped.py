"""Configs that diffusers saves after a swap of the scheduler; `scripts/goldens/swapped_schedulers.py` makes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kandinsky_runtime.sampling import schedulers
from scripts.goldens.schedulers import SHAPE, fake_model, random_stream
from scripts.goldens.swapped_schedulers import METHODS, STEPS, case
from tests.golden import GOLDEN
from tests.tolerances import GOLDEN_STEP

with np.load(GOLDEN / "swapped_schedulers.npz", allow_pickle=False) as archive:
    GOLDENS = {name: archive[name] for name in archive.files}
CONFIGS: dict[str, dict[str, Any]] = {
    name.split()[0]: json.loads(str(text)) for name, text in GOLDENS.items() if name.endswith(" config")
}
PAIRS = [(saved, method) for saved in CONFIGS for method in METHODS if f"{saved} {method}" in GOLDENS]


def last_latents(config: dict[str, Any], method: str) -> npt.NDArray[np.float32]:
    sampler = schedulers.load(config, method).sampler(STEPS, SHAPE)
    stream = random_stream()
    latents = next(stream) * np.float32(sampler.init_noise_sigma)
    for i, timestep in enumerate(sampler.timesteps.tolist()):
        output = fake_model(case(config, method), sampler.scale_model_input(i, latents), timestep)
        latents = sampler.step(i, output, latents, next(stream) if sampler.draws_noise(i) else None)
    return latents


def test_the_swaps_that_were_met_are_there() -> None:
    """A file that was made with other classes would let the table below shrink without a word."""
    assert {"DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "LCMScheduler", "PNDMScheduler"} < {*CONFIGS}
    assert CONFIGS["DPMSolverMultistepScheduler"]["variance_type"] is None
    assert len(PAIRS) > 100


@pytest.mark.parametrize(("saved", "method"), PAIRS)
def test_the_result_is_that_of_diffusers(saved: str, method: str) -> None:
    theirs = GOLDENS[f"{saved} {method}"]
    off = np.abs(last_latents(CONFIGS[saved], method) - theirs).max()
    assert off <= GOLDEN_STEP * np.abs(theirs).max(), f"{method} from {saved} is off by {off}"


@pytest.mark.parametrize(("method", "default"), [("ddpm", "fixed_small"), ("unclip", "fixed_small_log")])
def test_null_is_the_default_of_the_method_that_is_asked_for(method: str, default: str) -> None:
    assert schedulers.load({"variance_type": None}, method).config.variance_type == default

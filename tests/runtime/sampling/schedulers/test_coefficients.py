"""The coefficients suffice for another program: a trajectory from the JSON equals the sampler's."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.schedulers.coefficients import as_text, describe
from tests.runtime.fake_bundle import DDPM, UNCLIP
from tests.tolerances import COEFFICIENTS

SHAPE, STEPS = (2, 4, 3, 5), 6


def model(sample: np.ndarray, timestep: float) -> np.ndarray:
    return (np.tanh(sample) * np.float32(0.8) + np.float32(timestep / 2000)).astype(np.float32)


def from_json(data: dict[str, Any], noises: list[np.ndarray], first: np.ndarray) -> np.ndarray:
    """The last latents, computed in float64 from the data alone; the formulas are those of docs/running-a-bundle.md."""
    latents, predictions, last = first.astype(np.float64) * data["init_noise_sigma"], [], None
    for row in data["steps"]:
        scaled = latents if row["input_scale"] is None else latents / row["input_scale"]
        output = model(scaled.astype(np.float32), row["timestep"]).astype(np.float64)
        prediction = row["prediction"][0] * latents + row["prediction"][1] * output
        if data["limit"] is not None:
            prediction = np.clip(prediction, -data["limit"]["bound"], data["limit"]["bound"])
        predictions.insert(0, prediction)
        base = latents
        if row["corrector"] is not None and any(row["corrector"]):
            weights = row["corrector"]
            base = weights[0] * last + sum(w * p for w, p in zip(weights[1:], predictions, strict=False))
        last = base
        if row["derivative"] is not None:
            sigma, change = row["derivative"]
            latents = latents + (latents - prediction) / sigma * change
        else:
            weights = row["update"]
            latents = weights[0] * base + weights[1] * output
            latents = latents + sum(w * p for w, p in zip(weights[2:], predictions, strict=False))
        if row["draws_noise"]:
            latents = latents + row["noise"] * noises.pop(0)
    return latents


@pytest.mark.parametrize("name", schedulers.SCHEDULERS)
def test_a_trajectory_from_the_data_equals_the_samplers(name: str) -> None:
    config = UNCLIP if name == "unclip" else DDPM
    scheduler = schedulers.load(config, name)
    data = json.loads(json.dumps(describe(scheduler, STEPS)))
    rng = np.random.default_rng(5)
    first = rng.standard_normal(SHAPE).astype(np.float32)
    noises = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(scheduler.draws(STEPS))]
    sampler = scheduler.sampler(STEPS, SHAPE)
    latents, drawn = first * np.float32(sampler.init_noise_sigma), iter(noises)
    for i, timestep in enumerate(sampler.timesteps.tolist()):
        output = model(sampler.scale_model_input(i, latents), timestep)
        latents = sampler.step(i, output, latents, next(drawn) if sampler.draws_noise(i) else None)
    np.testing.assert_allclose(from_json(data, list(noises), first), latents, rtol=COEFFICIENTS, atol=COEFFICIENTS)


def test_the_data_names_scheduler_and_noise_levels() -> None:
    data = describe(schedulers.load(DDPM), 50)
    assert data["scheduler"] == "DDPMScheduler"
    assert [row["timestep"] for row in data["steps"]] == list(range(981, 0, -20))
    alphas = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))[[row["timestep"] for row in data["steps"]]]
    np.testing.assert_allclose([row["sigma"] for row in data["steps"]], np.sqrt(1 / alphas - 1), rtol=COEFFICIENTS)
    assert all(row["draws_noise"] for row in data["steps"])
    text = as_text(data)
    assert text.startswith("DDPMScheduler, 50 steps")
    assert len(text.splitlines()) == 52


@pytest.mark.parametrize("steps", [0, 1001, True])
def test_invalid_numbers_of_steps_are_refused(steps: Any) -> None:
    with pytest.raises(SchedulerError, match="expected an integer from 1 to 1000"):
        describe(schedulers.load(DDPM), steps)

"""Guidance at some noise levels only: which steps have it, what the others compute, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.guidance import Interval
from kandinsky_runtime.sampling.noise import TorchNoise
from tests.runtime import fake_bundle
from tests.runtime.fake_bundle import CHANNELS, DDPM, WIDTH, FakeEngine
from tests.tolerances import INTERVAL, INTERVAL_STEP, SIGMA_OF_TIMESTEP

RNG = np.random.default_rng(6)
EMBEDS, NEGATIVE = RNG.standard_normal((2, 1, WIDTH), np.float32)
STEPS, SCALE, GRID = 6, 4.0, (8, 10)
ALPHAS = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000))
SOUND: dict[str, Any] = {
    "image": RNG.integers(0, 256, (64, 80, 3), np.uint8),
    "mask_image": np.full((64, 80), 255, np.uint8),
    "image_embeds": EMBEDS,
    "negative_image_embeds": NEGATIVE,
    "num_inference_steps": STEPS,
    "guidance_scale": SCALE,
    "seed": 5,
    "output_type": "latent",
}


def batches(engine: type[FakeEngine]) -> list[int]:
    return [feeds["sample"].shape[0] for name, feeds in engine.runs if name == "unet"]


def sigmas(timesteps: Any) -> np.ndarray:
    alphas = ALPHAS[np.asarray(timesteps, int)]
    return np.sqrt((1 - alphas) / alphas)


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++", "unipc", "euler", "euler-a"])
def test_noise_levels_of_the_samplers(scheduler: str) -> None:
    sampler = schedulers.load(DDPM, scheduler).sampler(STEPS, (1, CHANNELS, *GRID))
    found = [sampler.sigma(i) for i in range(STEPS)]
    np.testing.assert_allclose(found, sigmas(np.rint(sampler.timesteps)), rtol=SIGMA_OF_TIMESTEP)
    assert found == sorted(found, reverse=True)


def test_noise_level_without_signal() -> None:
    config = DDPM | {
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "prediction_type": "v_prediction",
    }
    assert schedulers.load(config, "ddim").sampler(STEPS, (1, CHANNELS, *GRID)).sigma(0) > 1e3


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_every_step_against_a_recomputation(
    pipeline: InpaintPipeline, fake_engine: type[FakeEngine], scheduler: str
) -> None:
    """Everything is repainted, so that the loop is the UNet and the scheduler alone."""
    low, high = 0.5, 4.0
    latents: list[np.ndarray] = []
    pipeline(
        **SOUND,
        scheduler=scheduler,
        guidance_interval=(low, high),
        callback_on_step_end=lambda _, __, ___, values: latents.append(values["latents"]),
    )
    noise = TorchNoise(5)
    shape = (1, CHANNELS, *GRID)
    sampler = schedulers.load(DDPM, scheduler).sampler(STEPS, shape)
    levels = sigmas(sampler.timesteps)
    guided = (low < levels) & (levels <= high)
    assert 1 < guided.sum() < STEPS - 1
    assert not guided[0]
    assert not guided[-1]
    assert batches(fake_engine) == [2 if here else 1 for here in guided]

    expected = noise.draw(shape)
    for i, t in enumerate(sampler.timesteps):
        sample = np.concatenate([expected, np.zeros((1, CHANNELS + 1, *GRID), np.float32)], axis=1)
        outputs = [
            fake_bundle.unet(sample, np.array([t], np.float32), embeds)["noise_pred"][:, :CHANNELS]
            for embeds in (EMBEDS, NEGATIVE)
        ]
        prediction = outputs[1] + SCALE * (outputs[0] - outputs[1]) if guided[i] else outputs[0]
        drawn = noise.draw(shape) if sampler.draws_noise(i) else None
        expected = sampler.step(i, prediction.astype(np.float32), expected, drawn).copy()
        np.testing.assert_allclose(latents[i], expected, rtol=0, atol=INTERVAL_STEP * np.abs(expected).max())


def test_an_interval_of_everything_changes_nothing(pipeline: InpaintPipeline) -> None:
    np.testing.assert_array_equal(pipeline(**SOUND, guidance_interval=(0, math.inf)).images, pipeline(**SOUND).images)


def test_a_sample_is_the_same_alone_and_in_a_batch(pipeline: InpaintPipeline) -> None:
    together = pipeline(**SOUND | {"seed": [3, 4]}, num_images_per_prompt=2, guidance_interval=(0.5, 4)).images
    for index, seed in enumerate((3, 4)):
        alone = pipeline(**SOUND | {"seed": seed}, guidance_interval=(0.5, 4)).images
        np.testing.assert_array_equal(together[index : index + 1], alone)


def test_the_variance_is_the_positive_halfs(tmp_path: Path, fake_engine: type[FakeEngine]) -> None:
    """With guidance at the first step only, and the same two embeddings, the run is the one without guidance."""
    opened = fake_bundle.opened(tmp_path / "b", scheduler=DDPM | {"variance_type": "learned_range"})
    same = SOUND | {"negative_image_embeds": EMBEDS}
    with InpaintPipeline.load(opened, "fake") as pipeline:
        once = pipeline(**same, guidance_interval=(9, math.inf)).images
        assert batches(fake_engine) == [2, *[1] * (STEPS - 1)]
        never = pipeline(**same | {"guidance_scale": 1}).images
    np.testing.assert_allclose(once, never, rtol=0, atol=INTERVAL * np.abs(never).max())


def test_bounds() -> None:
    interval = Interval(0.3, 5)
    assert [interval.holds(sigma) for sigma in (0.3, 0.31, 5.0, 5.01, math.inf)] == [False, True, True, False, False]
    assert Interval(0.3, math.inf).holds(math.inf)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((5, 0.3), r"guidance_interval is \(5, 0.3\); expected two noise levels, the lower one first"),
        ((1, 1), "expected two noise levels"),
        ((-1, 1), "expected two noise levels"),
        ((math.nan, 1), "expected two noise levels"),
        ((0, True), "expected two noise levels"),
        ((1, 2, 3), "expected two noise levels"),
        (0.5, "guidance_interval is 0.5; expected two noise levels"),
        ("1:2", "guidance_interval is '1:2'; expected two noise levels"),
        ((1000, 2000), r"which contains no step of this run; its noise levels go from .* down to 0.0414"),
    ],
)
def test_what_is_refused(pipeline: InpaintPipeline, fake_engine: type[FakeEngine], value: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        pipeline(**SOUND, guidance_interval=value)
    assert not fake_engine.loaded


def test_an_interval_needs_guidance(pipeline: InpaintPipeline, fake_engine: type[FakeEngine]) -> None:
    with pytest.raises(
        UsageError, match="guidance_interval needs guidance, but guidance_scale is 1: give a scale above 1 or leave"
    ):
        pipeline(**SOUND | {"guidance_scale": 1}, guidance_interval=(0.3, 5))
    assert not fake_engine.loaded

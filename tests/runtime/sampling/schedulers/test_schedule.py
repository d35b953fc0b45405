"""Schedules: the formulas of the papers, in float64, and properties of timesteps and noise levels."""

from __future__ import annotations

import numpy as np
import pytest

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.config import SchedulerConfig
from tests.tolerances import (
    BETAS,
    BETAS_OF_ROOTS,
    COSINE_ALPHAS,
    FIRST_ALPHA,
    FLOAT64,
    FLOAT64_POWER,
    FLOAT64_SUM,
    TIMESTEP,
)

LATENT = SchedulerConfig(beta_start=0.00085, beta_end=0.012)
RNG = np.random.default_rng(2)


def test_linear_betas() -> None:
    betas = schedule.betas(LATENT)
    assert betas.dtype == np.float32
    np.testing.assert_allclose(betas, np.linspace(0.00085, 0.012, 1000), rtol=BETAS)
    assert (betas[0], betas[-1]) == (np.float32(0.00085), np.float32(0.012))


def test_scaled_linear_betas_are_linear_in_the_root() -> None:
    config = SchedulerConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    expected = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(schedule.betas(config), expected, rtol=BETAS_OF_ROOTS)


def test_cosine_betas_give_the_cosine_schedule() -> None:
    config = SchedulerConfig(beta_schedule="squaredcos_cap_v2")
    betas, alphas = schedule.betas(config), schedule.alphas_cumprod(config)
    assert betas.max() == np.float32(0.999)
    squared = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(alphas[:900], (squared[1:] / squared[0])[:900], rtol=COSINE_ALPHAS)


def test_zero_terminal_snr_changes_the_end_only() -> None:
    config = SchedulerConfig(beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=True)
    alphas = schedule.alphas_cumprod(config)
    assert alphas[-1] == 0
    np.testing.assert_allclose(alphas[0], schedule.alphas_cumprod(LATENT)[0], rtol=FIRST_ALPHA)
    finite = schedule.finite_sigma_alphas(config)
    assert finite[-1] == 2**-24
    np.testing.assert_array_equal(finite[:-1], alphas[:-1])


def test_signal_and_noise_have_unit_variance() -> None:
    sigmas = np.geomspace(1e-3, 1e3, 50)
    signal, spread = schedule.signal_and_noise(sigmas)
    np.testing.assert_allclose(signal**2 + spread**2, 1, rtol=FLOAT64)
    np.testing.assert_allclose(spread / signal, sigmas, rtol=FLOAT64)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_conversions_recover_x0_and_epsilon(prediction_type: str) -> None:
    signal, spread = schedule.signal_and_noise(np.geomspace(0.05, 20, 9))
    clean, epsilon = RNG.standard_normal((2, 9))
    sample = signal * clean + spread * epsilon
    output = {"epsilon": epsilon, "sample": clean, "v_prediction": signal * epsilon - spread * clean}[prediction_type]
    pair = np.stack([sample, output], axis=1)
    to_clean = schedule.prediction_to_x0(prediction_type, signal, spread)
    to_epsilon = schedule.prediction_to_epsilon(prediction_type, signal, spread)
    np.testing.assert_allclose((to_clean * pair).sum(axis=1), clean, rtol=0, atol=FLOAT64_SUM)
    np.testing.assert_allclose((to_epsilon * pair).sum(axis=1), epsilon, rtol=0, atol=FLOAT64_SUM)


def test_timesteps_of_inverts_the_training_sigmas() -> None:
    training = schedule.training_sigmas(schedule.finite_sigma_alphas(LATENT))
    assert np.all(np.diff(training) > 0)
    timesteps = np.array([0, 1, 17, 500, 998, 999])
    found = schedule.timesteps_of(training[timesteps].astype(np.float64), training)
    np.testing.assert_allclose(found, timesteps, rtol=0, atol=TIMESTEP)
    np.testing.assert_array_equal(schedule.timesteps_of(np.array([1e-6, 1e6]), training), [0, 999])


def test_karras_levels_are_even_in_the_seventh_root() -> None:
    levels = schedule.karras_sigmas(LATENT, 0.03, 14.0, 12)
    np.testing.assert_allclose(levels[[0, -1]], [14.0, 0.03], rtol=FLOAT64_POWER)
    np.testing.assert_allclose(np.diff(levels ** (1 / 7), n=2), 0, atol=FLOAT64)
    set_ends = SchedulerConfig(sigma_min=0.1, sigma_max=5.0)
    np.testing.assert_allclose(
        schedule.karras_sigmas(set_ends, 0.03, 14.0, 12)[[0, -1]], [5.0, 0.1], rtol=FLOAT64_POWER
    )


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("leading", [751, 501, 251, 1]), ("linspace", [999, 666, 333, 0]), ("trailing", [999, 749, 499, 249])],
)
def test_timesteps_of_each_spacing(spacing: str, expected: list[int]) -> None:
    """Table 2 of Lin et al. 2023, with an offset of 1 for "leading"."""
    config = SchedulerConfig(timestep_spacing=spacing, steps_offset=1)
    assert schedule.timesteps(config, 4).tolist() == expected


def test_repeated_timesteps_use_the_second_step() -> None:
    timesteps = np.array([999, 700, 700, 300, 300, 300, 0])
    assert schedule.forward_steps(timesteps).tolist() == [0, 2, 2, 4, 4, 4, 6]


@pytest.mark.parametrize(("sigmas", "final"), [([1.0, 1.0], 0.0), ([1.0, 2.0], 0.0), ([2.0, 1.0], 1.5)])
def test_levels_that_do_not_fall_are_refused(sigmas: list[float], final: float) -> None:
    with pytest.raises(SchedulerError, match="the noise level does not fall at each of 2 steps: take fewer steps"):
        schedule.ending(np.array(sigmas), final)
    assert schedule.ending(np.array([2.0, 1.0]), 1.0).tolist() == [2.0, 1.0, 1.0]

"""Properties that every scheduler must have, independent of diffusers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.schedulers import Sampler, Scheduler
from tests.tolerances import CLEAN, CLEAN_PRIOR, CLEAN_SMALL, ONE_DIVISION

Array = npt.NDArray[np.float32]
Model = Callable[[int, Array], Array]

NAMES = schedulers.SCHEDULERS
DIFFUSION = [name for name in NAMES if name != "unclip"]
LATENT: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False, "steps_offset": 1}
SHAPE = (3, 4, 5, 2)


def config_of(name: str, **options: Any) -> dict[str, Any]:
    """LATENT with `options`. The prior's scheduler has betas of its own and lacks the options of LATENT."""
    return {"clip_sample": False, **options} if name == "unclip" else {**LATENT, **options}


def normal(seed: int, shape: tuple[int, ...] = SHAPE) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def trajectory(sampler: Sampler, model: Model, first: Array, noise: Callable[[int], Array]) -> Array:
    """The last latents, from unscaled noise `first` and `noise(i)`, the draw of step i."""
    latents = (first * sampler.init_noise_sigma).astype(np.float32)
    for i in range(len(sampler.timesteps)):
        output = model(i, sampler.scale_model_input(i, latents))
        latents = sampler.step(i, output, latents, noise(i) if sampler.draws_noise(i) else None)
    return latents


def levels(sampler: Sampler) -> npt.NDArray[np.float64]:
    """Weights of x_0 and of the noise in the model's input at each step, (n, 2), whose squares add up to 1."""
    one, none = np.ones(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=np.float32)
    pairs = [
        (sampler.add_noise(i, one, none).flat[0], sampler.add_noise(i, none, one).flat[0])
        for i in range(len(sampler.timesteps))
    ]
    table = np.array(pairs, dtype=np.float64)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


def perfect_model(sampler: Sampler, prediction_type: str, clean: Array) -> Model:
    """A model that knows x_0 and predicts it exactly from any latents."""
    signal, spread = levels(sampler).T

    def model(i: int, latents: Array) -> Array:
        epsilon = (latents - signal[i] * clean) / spread[i]
        if prediction_type == "epsilon":
            return epsilon.astype(np.float32)
        if prediction_type == "sample":
            return clean
        return (signal[i] * epsilon - spread[i] * clean).astype(np.float32)

    return model


@pytest.mark.parametrize("steps", [1, 2, 20, 150])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", DIFFUSION)
def test_a_perfect_model_recovers_x0(name: str, prediction_type: str, spacing: str, steps: int) -> None:
    if (name, prediction_type) == ("euler-a", "sample"):
        prediction_type = "v_prediction"  # euler-a does not support it
    # A DDIM step goes back T // n timesteps, which ends below 0 only if n divides T or the spacing is "leading".
    total = 1200 if name == "ddim" else 1000
    config = config_of(name, prediction_type=prediction_type, timestep_spacing=spacing, num_train_timesteps=total)
    if name == "ddim" and spacing == "linspace":
        config["timestep_spacing"] = "trailing"
    if "karras" in name:
        steps = min(steps, 20)  # with more, neighbours share a timestep, and `levels` cannot tell them apart
    sampler = schedulers.load(config, name).sampler(steps, SHAPE)
    clean = normal(1)
    result = trajectory(sampler, perfect_model(sampler, prediction_type, clean), normal(2), lambda i: normal(i + 3))
    # Epsilon is divided by sqrt(alphas_cumprod), 0.05 at the first of the steps.
    np.testing.assert_allclose(result, clean, rtol=0, atol=CLEAN)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
@pytest.mark.parametrize("steps", [2, 25])
def test_a_perfect_prior_recovers_x0(prediction_type: str, steps: int) -> None:
    config = config_of("unclip", prediction_type=prediction_type)
    sampler = schedulers.load(config, "unclip").sampler(steps, SHAPE)
    clean = normal(1)
    result = trajectory(sampler, perfect_model(sampler, prediction_type, clean), normal(2), lambda i: normal(i + 3))
    # The last step weights x_0 with β_0 / (1 - ᾱ_0). That is 1, up to the rounding of ᾱ_0 to float32: 6e-8 of 4e-5.
    np.testing.assert_allclose(result, clean, rtol=CLEAN_PRIOR, atol=CLEAN_SMALL)


@pytest.mark.parametrize("name", NAMES)
def test_zero_noise_in_the_forward_process_recovers_x0(name: str) -> None:
    sampler = schedulers.load(config_of(name), name).sampler(20, SHAPE)
    clean = normal(1)
    signal = sampler.add_noise(0, np.ones_like(clean), np.zeros_like(clean)).flat[0]
    np.testing.assert_allclose(sampler.add_noise(0, clean, np.zeros_like(clean)) / signal, clean, rtol=ONE_DIVISION)


def gaussian_error(scheduler: Scheduler, steps: int) -> float:
    """The largest error of a whole trajectory against the ODE's solution, for normal data: mean 0.5, deviation 0.3.

    The posterior mean of x_0, and so the exact epsilon, is linear in x. Along the probability-flow ODE, a sample keeps
    its quantile of the marginal distribution (Song et al. 2021, arXiv:2011.13456, eq. 13).
    """
    mean, deviation = 0.5, 0.3
    sampler = scheduler.sampler(steps, SHAPE)
    signal, spread = levels(sampler).T

    def model(i: int, latents: Array) -> Array:
        variance = (signal[i] * deviation) ** 2 + spread[i] ** 2
        clean = mean + signal[i] * deviation**2 / variance * (latents - signal[i] * mean)
        return ((latents - signal[i] * clean) / spread[i]).astype(np.float32)

    quantile = normal(5)
    marginal = np.hypot(signal[0] * deviation, spread[0])
    start = (signal[0] * mean + marginal * quantile) * np.float32(1 if sampler.init_noise_sigma == 1 else 1 / signal[0])
    result = trajectory(sampler, model, start / np.float32(sampler.init_noise_sigma), lambda i: normal(i))
    # The last latents are at LOWEST; those of Euler's method are not scaled by sqrt(alphas_cumprod).
    end_signal = 1.0 if sampler.init_noise_sigma != 1 else 1 / np.hypot(1, LOWEST)
    exact = end_signal * (mean + np.hypot(deviation, LOWEST) * quantile)
    return float(np.abs(result - exact).max())


def even_lambdas(lowest: float, highest: float, total: int) -> list[float]:
    """Betas whose noise levels go from `lowest` to `highest` in equal steps of log σ."""
    sigmas = np.geomspace(lowest, highest, total)
    alphas = 1 / (1 + sigmas**2)
    return (1 - alphas / np.append(1.0, alphas[:-1])).tolist()


LOWEST = 0.1
# Enough timesteps for equal steps, whatever the number of steps.
SMOOTH = {"num_train_timesteps": 16001, "trained_betas": even_lambdas(LOWEST, 8.0, 16001), "clip_sample": False}
ENDING = {"final_sigmas_type": "sigma_min", "lower_order_final": False}


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {"timestep_spacing": "trailing", "set_alpha_to_one": False}, 1),
        ("euler", {"final_sigmas_type": "sigma_min"}, 1),
        ("dpm++", {"solver_order": 1, **ENDING}, 1),
        ("dpm++", {"solver_order": 2, **ENDING}, 2),
        ("dpm++", {"solver_order": 2, "solver_type": "heun", **ENDING}, 2),
        ("dpm++", {"solver_order": 3, **ENDING}, 2),
        ("unipc", {"solver_order": 1, **ENDING}, 2),
        ("unipc", {"solver_order": 2, **ENDING}, 3),
        ("unipc", {"solver_order": 2, "solver_type": "bh1", **ENDING}, 3),
        ("unipc", {"solver_order": 2, "predict_x0": False, **ENDING}, 3),
        ("unipc", {"solver_order": 2, "disable_corrector": range(100), **ENDING}, 2),
    ],
    ids=str,
)
def test_order_of_convergence(name: str, options: dict[str, Any], order: int) -> None:
    """Doubling the steps divides the error by 2 to the power of the order.

    UniPC's corrector adds one to the order of its predictor. The first step has order 1 and an error of h², which
    limits a whole trajectory of DPM-Solver++ 3M to order 2.
    """
    scheduler = schedulers.load({**SMOOTH, **options}, name)
    coarse, fine = (gaussian_error(scheduler, count) for count in (40, 80))
    measured = np.log2(coarse / fine)
    assert order - 0.25 < measured < order + 0.35, f"order {measured:.2f}: errors {coarse:.2e}, {fine:.2e}"


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    options = {} if name == "unclip" else {"thresholding": True, "sample_max_value": 2.0}
    scheduler = schedulers.load(config_of(name, **options), name)

    def run(rows: slice) -> Array:
        shape = normal(0)[rows].shape
        sampler = scheduler.sampler(8, shape)
        return trajectory(sampler, lambda i, x: np.tanh(x), normal(0)[rows], lambda i: normal(i)[rows]).copy()

    together = run(slice(None))
    for sample in range(SHAPE[0]):
        np.testing.assert_array_equal(run(slice(sample, sample + 1)), together[sample : sample + 1])


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_learned_variances_do_not_depend_on_the_rest_of_the_batch(variance_type: str) -> None:
    scheduler = schedulers.load({**LATENT, "variance_type": variance_type}, "ddpm")

    def model(i: int, latents: Array) -> Array:
        return np.concatenate([np.tanh(latents), np.abs(np.sin(latents))], axis=1)

    together = trajectory(scheduler.sampler(8, SHAPE), model, normal(0), normal)
    alone = trajectory(scheduler.sampler(8, (1, *SHAPE[1:])), model, normal(0)[1:2], lambda i: normal(i)[1:2])
    np.testing.assert_array_equal(alone, together[1:2])


def test_fixed_large_log_equals_fixed_large() -> None:
    """diffusers returns NaN here, because it takes the square root of the logarithm."""
    results = []
    for variance_type in ("fixed_large", "fixed_large_log"):
        sampler = schedulers.load({**LATENT, "variance_type": variance_type}, "ddpm").sampler(10, SHAPE)
        results.append(trajectory(sampler, lambda i, x: np.tanh(x), normal(0), normal).copy())
    np.testing.assert_array_equal(*results)


def test_unipc_bh1_ends_at_the_prediction_at_sigma_zero() -> None:
    """diffusers returns NaN here, because it multiplies B(h) = h, which is infinite, with a difference of 0."""
    sampler = schedulers.load({**LATENT, "solver_type": "bh1", "prediction_type": "sample"}, "unipc").sampler(9, SHAPE)
    outputs = [np.tanh(normal(i)) for i in range(9)]
    result = trajectory(sampler, lambda i, x: outputs[i], normal(0), normal)
    np.testing.assert_array_equal(result, outputs[-1])


@pytest.mark.parametrize("name", NAMES)
def test_float32_stays_float32_and_inputs_are_not_modified(name: str) -> None:
    sampler = schedulers.load(config_of(name), name).sampler(6, SHAPE)
    latents = normal(0)
    for i in range(6):
        before = latents.copy()
        output, noise = np.tanh(latents), normal(i)
        copies = output.copy(), noise.copy()
        assert sampler.scale_model_input(i, latents).dtype == np.float32
        result = sampler.step(i, output, latents, noise if sampler.draws_noise(i) else None)
        assert result.dtype == np.float32
        assert result.shape == SHAPE
        np.testing.assert_array_equal(latents, before)
        np.testing.assert_array_equal(output, copies[0])
        np.testing.assert_array_equal(noise, copies[1])
        assert sampler.add_noise(i, latents, noise).dtype == np.float32
        latents = result.copy()


@pytest.mark.parametrize("name", NAMES)
def test_no_global_random_state_is_touched(name: str) -> None:
    before = np.random.get_state(legacy=False)
    sampler = schedulers.load(config_of(name), name).sampler(5, SHAPE)
    trajectory(sampler, lambda i, x: np.tanh(x), normal(0), normal)
    after = np.random.get_state(legacy=False)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    np.testing.assert_array_equal(before["state"]["key"], after["state"]["key"])
    assert before["state"]["pos"] == after["state"]["pos"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in NAMES),
        ("ddpm", {"clip_sample": True}),
        ("ddpm", {"thresholding": True}),
        ("ddpm", {"variance_type": "learned_range"}),
        ("unipc", {"solver_order": 3}),
    ],
    ids=str,
)
def test_steps_allocate_no_arrays(name: str, options: dict[str, Any]) -> None:
    shape = (1, 4, 96, 96)
    scheduler = schedulers.load(config_of(name, **options), name)
    sampler = scheduler.sampler(20, shape)
    latents, noise = normal(0, shape), normal(1, shape)
    outputs = [normal(i, (1, 8 if scheduler.predicts_variance else 4, 96, 96)) for i in range(20)]
    known = np.empty(shape, dtype=np.float32)

    def step(i: int) -> None:
        nonlocal latents
        sampler.scale_model_input(i, latents)
        latents = sampler.step(i, outputs[i], latents, noise if sampler.draws_noise(i) else None)
        sampler.add_noise(i, noise, noise, known)

    step(0)
    tracemalloc.start()
    try:
        for i in range(1, 20):
            step(i)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Python's own small objects remain.
    assert peak < latents.nbytes / 8, f"{peak} bytes at a time; the latents have {latents.nbytes}"


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(NAMES),
    steps=st.integers(1, 80),
    total=st.integers(80, 1500),
    spacing=st.sampled_from(["leading", "linspace", "trailing"]),
    prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    offset=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_any_sensible_config_runs_to_finite_latents(
    name: str, steps: int, total: int, spacing: str, prediction_type: str, schedule: str, offset: int, seed: int
) -> None:
    config = {
        "num_train_timesteps": total,
        "beta_schedule": schedule,
        "timestep_spacing": spacing,
        "prediction_type": prediction_type,
        "steps_offset": offset,
    }
    try:
        sampler = schedulers.load(config, name).sampler(steps, SHAPE)
    except SchedulerError:
        return
    timesteps = sampler.timesteps
    assert timesteps.min() >= 0
    assert timesteps.max() <= total - 1
    assert np.all(np.diff(timesteps) <= 0)
    result = trajectory(sampler, lambda i, x: np.tanh(x), normal(seed), lambda i: normal(seed + i))
    assert np.isfinite(result).all()
    assert result.dtype == np.float32

"""Euler's method on the probability-flow ODE in x_t / sqrt(ᾱ_t) (Karras et al. 2022, arXiv:2206.00364)."""

from __future__ import annotations

import math

import numpy as np

from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import SCHEDULE_OPTIONS, SIGMA_OPTIONS, Options, SchedulerConfig
from kandinsky_runtime.sampling.schedulers.schedule import Float32, Float64
from kandinsky_runtime.sampling.schedulers.table import Table


class Euler(Scheduler):
    """Algorithm 1 of the paper without its second-order correction: dx = (x - x̂_0) / σ · dσ, without churn.

    The model is fed x / sqrt(σ² + 1). With "linspace" spacing and with Karras' noise levels, timesteps are fractional.
    """

    class_name = "EulerDiscreteScheduler"
    options = Options(
        reads=SCHEDULE_OPTIONS | SIGMA_OPTIONS,
        defaults={"timestep_spacing": "linspace"},
        translates={"prediction_type": {"original_sample": "sample"}},
    )

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        config = self.config
        training = schedule.training_sigmas(schedule.finite_sigma_alphas(config))
        timesteps = float_timesteps(config, steps)
        sigmas = levels_at(timesteps, training)
        if config.use_karras_sigmas:
            sigmas = schedule.karras_sigmas(config, sigmas[-1], sigmas[0], steps)
            timesteps = schedule.timesteps_of(sigmas, training).astype(np.float32)
        sigmas = schedule.ending(sigmas, float(training[0]) if config.final_sigmas_type == "sigma_min" else 0.0)
        return euler_table(config, timesteps, sigmas, to=sigmas[1:], noise=np.zeros(len(timesteps)), draws=False)


def float_timesteps(config: SchedulerConfig, steps: int) -> Float32:
    """Timesteps of the Euler methods, (n,) float32, descending; "linspace" does not round them."""
    if config.timestep_spacing == "linspace":
        return np.linspace(0, config.num_train_timesteps - 1, steps, dtype=np.float32)[::-1].copy()
    return schedule.timesteps(config, steps).astype(np.float32)


def levels_at(timesteps: Float32, training: Float32) -> Float64:
    """σ at fractional timesteps, (n,), by interpolation over the training timesteps' `training` (T,)."""
    sigmas: Float64 = np.interp(timesteps, np.arange(len(training)), training)
    return sigmas


def euler_table(
    config: SchedulerConfig, timesteps: Float32, sigmas: Float64, *, to: Float64, noise: Float64, draws: bool
) -> Table:
    """Euler steps from sigmas[i] to to[i], (n,), with noise of deviation noise[i], (n,), added after the step.

    next = x + (x - x̂_0) / σ · (to - σ) is linear in x and the model output, but it is evaluated as written. If σ is
    large, the first term nearly cancels, float32 rounds by σ/2²⁴, and diffusers' latents contain that rounding.
    """
    sigma = sigmas[:-1]
    alpha, spread = schedule.signal_and_noise(sigma)
    prediction = schedule.prediction_to_x0(config.prediction_type, alpha, spread)
    prediction[:, 0] *= alpha  # from x to sqrt(ᾱ)·x, which the prediction types are defined on
    highest = float(sigma.max())
    return Table(
        timesteps=timesteps,
        prediction=prediction,
        update=None,
        derivative=np.stack([sigma, to - sigma], axis=1),
        noise=noise,
        draws=np.full(len(timesteps), draws),
        forward=np.stack([np.ones_like(sigma), sigma[schedule.forward_steps(timesteps)]], axis=1),
        input_scale=np.sqrt(np.square(sigma) + 1),
        init_noise_sigma=math.sqrt(highest**2 + 1) if config.timestep_spacing == "leading" else highest,
    )

"""DDPM: ancestral sampling along the learned reverse process (Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

import numpy as np

from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import (
    CLIP_OPTIONS,
    LEARNED_VARIANCES,
    SCHEDULE_OPTIONS,
    THRESHOLD_OPTIONS,
    Options,
)
from kandinsky_runtime.sampling.schedulers.schedule import Float64
from kandinsky_runtime.sampling.schedulers.table import Table

LEAST_VARIANCE = 1e-20
"""Keeps the logarithm of the last step's variance, 0, finite."""


class DDPM(Scheduler):
    """DDPM with a fixed or a learned variance.

    `variance_type` "fixed_small" is β̃ of eq. 7, and "fixed_large" is β. A "…_log" form computes the same variance
    through its logarithm. "learned" uses the model's variance unchanged. "learned_range" interpolates between log β̃ and
    log β (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15).

    For "fixed_large_log", diffusers takes the square root of a logarithm, which is NaN. Here it equals "fixed_large".
    """

    class_name = "DDPMScheduler"
    options = Options(reads=SCHEDULE_OPTIONS | CLIP_OPTIONS | THRESHOLD_OPTIONS | {"variance_type"})

    @property
    def predicts_variance(self) -> bool:
        """See `Scheduler.predicts_variance`."""
        return self.config.variance_type in LEARNED_VARIANCES

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        config = self.config
        timesteps = schedule.timesteps(config, steps)
        alphas = schedule.alphas_cumprod(config).astype(np.float64)
        alpha = alphas[timesteps]
        alpha_prev = np.append(alpha[1:], 1.0)
        ratio = schedule.alpha_ratio(alpha, alpha_prev)
        beta = 1 - ratio
        variance = np.maximum(posterior_variance(alpha, alpha_prev, beta), LEAST_VARIANCE)
        large = config.variance_type in ("fixed_large", "fixed_large_log")
        return Table(
            timesteps=timesteps,
            prediction=schedule.prediction_to_x0(config.prediction_type, np.sqrt(alpha), np.sqrt(1 - alpha)),
            update=posterior_mean(alpha, alpha_prev, ratio, beta),
            noise=np.sqrt(beta if large else variance),
            draws=timesteps > 0,
            forward=np.sqrt(np.stack([alpha, 1 - alpha], axis=1)),
            log_std=log_std_range(variance, beta) if config.variance_type == "learned_range" else None,
            learned_std=config.variance_type == "learned",
        )


def posterior_mean(alpha: Float64, alpha_prev: Float64, ratio: Float64, beta: Float64) -> Float64:
    """Weights of (sample, model output, x̂_0) in μ̃ of DDPM eq. 7, (n, 3).

    Args:
        alpha, alpha_prev: ᾱ before and after the step, (n,).
        ratio: 1 - β of the step, which is the α that weights the sample, (n,).
        beta: β of the step, (n,).
    """
    sample_weight = np.sqrt(ratio) * (1 - alpha_prev) / (1 - alpha)
    x0_weight = np.sqrt(alpha_prev) * beta / (1 - alpha)
    return np.stack([sample_weight, np.zeros_like(alpha), x0_weight], axis=1)


def posterior_variance(alpha: Float64, alpha_prev: Float64, beta: Float64) -> Float64:
    """β̃ of DDPM eq. 7, (n,); arguments as for `posterior_mean`."""
    return (1 - alpha_prev) / (1 - alpha) * beta


def log_std_range(variance: Float64, beta: Float64) -> Float64:
    """Constant and slope of log σ(v) = ½·(v'·log β + (1 - v')·log β̃) with v' = (v + 1) / 2, (n, 2).

    Nichol & Dhariwal 2021 eq. 15; v in [-1, 1] is the model's output.
    """
    with np.errstate(divide="ignore"):  # β = 0 gives a weight that `Table` refuses
        low, high = np.log(variance), np.log(beta)
    return np.stack([(high + low) / 4, (high - low) / 4], axis=1)

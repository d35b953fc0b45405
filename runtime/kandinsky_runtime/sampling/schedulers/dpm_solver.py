"""DPM-Solver++: multistep exponential integrators in λ = log(alpha / sigma) (Lu et al. 2022, arXiv:2211.01095)."""

from __future__ import annotations

import math

import numpy as np

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import SCHEDULE_OPTIONS, SIGMA_OPTIONS, THRESHOLD_OPTIONS, Options
from kandinsky_runtime.sampling.schedulers.schedule import Float32, Float64
from kandinsky_runtime.sampling.schedulers.table import Table

_FEW_STEPS = 15
"""With fewer steps than this, `lower_order_final` lowers the order of the last steps."""


class DPMSolver(Scheduler):
    """DPM-Solver++ of order 1 to 3 ("dpmsolver++"), or its SDE form of order 1 or 2 ("sde-dpmsolver++").

    A learned variance is not used: the caller passes only the prediction channels.
    """

    class_name = "DPMSolverMultistepScheduler"
    options = Options(
        reads=SCHEDULE_OPTIONS
        | SIGMA_OPTIONS
        | THRESHOLD_OPTIONS
        | {
            "solver_order",
            "solver_type",
            "algorithm_type",
            "lower_order_final",
            "euler_at_final",
            "lambda_min_clipped",
        },
        defaults={"timestep_spacing": "linspace"},
        choices={"solver_type": ("midpoint", "heun")},
        translates={
            "algorithm_type": {"deis": "dpmsolver++"},
            "solver_type": {"logrho": "midpoint", "bh1": "midpoint", "bh2": "midpoint"},
        },
    )

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        config = self.config
        stochastic = config.algorithm_type == "sde-dpmsolver++"
        if stochastic and config.solver_order > 2:
            raise SchedulerError(
                "scheduler config: `solver_order` 3 is not supported with sde-dpmsolver++, only 1 and 2"
            )
        alphas = schedule.finite_sigma_alphas(config)
        timesteps, sigmas = schedule.multistep_levels(config, alphas, steps, self._usable(alphas))
        if config.beta_schedule != "squaredcos_cap_v2":
            timesteps = timesteps.round()
        timesteps = timesteps.astype(np.int64)
        final = float(schedule.training_sigmas(alphas)[0]) if config.final_sigmas_type == "sigma_min" else 0.0
        sigmas = schedule.ending(sigmas, final)
        alpha, spread = schedule.signal_and_noise(sigmas)

        count = len(timesteps)
        update = np.zeros((count, 2 + config.solver_order))
        noise = np.zeros(count)
        for i in range(count):
            order = self._order(i, count, first)
            update[i, 0], update[i, 2 : 2 + order], noise[i] = self._weights(sigmas[i + 1 - order : i + 2], stochastic)
        known = schedule.forward_steps(timesteps)
        return Table(
            timesteps=timesteps,
            prediction=schedule.prediction_to_x0(config.prediction_type, alpha[:-1], spread[:-1]),
            update=update,
            noise=noise,
            draws=np.full(count, stochastic),
            forward=np.stack([alpha[known], spread[known]], axis=1),
        )

    def _usable(self, alphas: Float32) -> int:
        """The number of timesteps, from 0 up, whose λ is at least `lambda_min_clipped`."""
        lambdas = np.log(np.sqrt(alphas)) - np.log(np.sqrt(1 - alphas))
        usable = len(lambdas) - int(np.searchsorted(lambdas[::-1], np.float32(self.config.lambda_min_clipped)))
        if not usable:
            raise SchedulerError(
                f"scheduler config: `lambda_min_clipped` {self.config.lambda_min_clipped} leaves no timestep"
            )
        return usable

    def _order(self, i: int, count: int, first: int) -> int:
        """The order of step i: at most the number of predictions since step `first`, and lower at the end."""
        config = self.config
        few = config.lower_order_final and count < _FEW_STEPS
        order = min(config.solver_order, max(i - first, 0) + 1)
        if i == count - 1 and (few or config.euler_at_final or config.final_sigmas_type == "zero"):
            return 1
        return min(order, 2) if i == count - 2 and few else order

    def _weights(self, sigmas: Float64, stochastic: bool) -> tuple[float, Float64, float]:
        """The weights of the sample, the predictions (latest first) and the noise.

        Algorithm 2 of the paper (2M), its form of order 3 (3M), and its form for the SDE (SDE-DPM-Solver++). At
        order 2, "midpoint" drops terms of h³ in the weight of the slope, and "heun" keeps them.

        Args:
            sigmas: the noise levels of the predictions, earliest first, and of the end of the step, (order + 1,).
            stochastic: whether the step is the SDE's.
        """
        order = len(sigmas) - 1
        start, end = sigmas[-2:]
        alpha, spread = schedule.signal_and_noise(sigmas)
        shrink = end / start  # e^(-h) with h = λ_end - λ_start
        sample_weight = spread[-1] / spread[-2]
        decay = shrink  # e^(-κ): κ = h for the ODE, 2h for the SDE
        if stochastic:
            sample_weight *= shrink
            decay = shrink**2
        noise = spread[-1] * math.sqrt(1 - decay) if stochastic else 0.0
        # x̂_0 is a polynomial in λ through the predictions: its value, slope and bend, times powers of h
        value, slope, bend = _differences(-np.log(sigmas[:-1]), 0.0 if order == 1 else -math.log(shrink))
        first = 1 - decay
        weights = first * value
        if order == 2 and self.config.solver_type == "midpoint":
            weights += first / 2 * slope
        elif order > 1 and end < start:
            kappa = -math.log(decay)
            weights += (1 - first / kappa) * slope
            weights += (0.5 - (kappa - first) / kappa**2) * bend
        return sample_weight, alpha[-1] * weights, noise


def _differences(lambdas: Float64, h: float) -> tuple[Float64, Float64, Float64]:
    """Divided differences D0, D1, D2 of the paper as weights of the predictions, latest first.

    Args:
        lambdas: λ of the predictions, latest last, (order,).
        h: the step in λ to which the differences are scaled.
    """
    order = len(lambdas)
    basis = np.eye(order)
    slope, bend = np.zeros(order), np.zeros(order)
    if order > 1:
        before = lambdas[-1] - lambdas[-2]
        slope = (basis[0] - basis[1]) * h / before
    if order > 2:
        earlier = lambdas[-2] - lambdas[-3]
        change = slope - (basis[1] - basis[2]) * h / earlier
        slope = slope + before / (before + earlier) * change
        bend = h / (before + earlier) * change
    return basis[0], slope, bend

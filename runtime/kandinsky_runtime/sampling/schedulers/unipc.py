"""UniPC: a multistep predictor with a corrector that costs no model call (Zhao et al. 2023, arXiv:2302.04867)."""

from __future__ import annotations

import math

import numpy as np

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import SCHEDULE_OPTIONS, SIGMA_OPTIONS, THRESHOLD_OPTIONS, Options
from kandinsky_runtime.sampling.schedulers.limits import Clip, Threshold
from kandinsky_runtime.sampling.schedulers.schedule import Float64
from kandinsky_runtime.sampling.schedulers.table import Table


class UniPC(Scheduler):
    """UniPC of order 1 to 3 with B(h) = h ("bh1") or e^h - 1 ("bh2"), on x̂_0 or, without `predict_x0`, on ε̂."""

    class_name = "UniPCMultistepScheduler"
    options = Options(
        reads=SCHEDULE_OPTIONS
        | SIGMA_OPTIONS
        | THRESHOLD_OPTIONS
        | {
            "solver_order",
            "solver_type",
            "predict_x0",
            "lower_order_final",
            "disable_corrector",
        },
        defaults={"timestep_spacing": "linspace", "solver_type": "bh2"},
        choices={"solver_type": ("bh1", "bh2")},
        translates={"solver_type": {"midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}},
    )

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        config = self.config
        alphas = schedule.finite_sigma_alphas(config)
        timesteps, sigmas = schedule.multistep_levels(config, alphas, steps, len(alphas))
        timesteps = timesteps.round().astype(np.int64)
        lowest = sigmas[-1] if config.use_karras_sigmas else schedule.training_sigmas(alphas)[0]
        sigmas = schedule.ending(sigmas, float(lowest) if config.final_sigmas_type == "sigma_min" else 0.0)
        alpha, spread = schedule.signal_and_noise(sigmas)
        known = schedule.forward_steps(timesteps)
        convert = schedule.prediction_to_x0 if config.predict_x0 else schedule.prediction_to_epsilon

        count = len(timesteps)
        update = np.zeros((count, 2 + config.solver_order))
        corrector = np.zeros((count, 2 + config.solver_order))
        for i in range(count):
            order = self._order(i, count, first)
            levels = sigmas[i + 1 - order : i + 2]
            update[i, 0], _, update[i, 2 : 2 + order] = self._weights(levels, corrects=False)
            if first <= i < count - 1 and i not in config.disable_corrector:
                corrector[i + 1, 0], corrector[i + 1, 1], corrector[i + 1, 2 : 2 + order] = self._weights(
                    levels, corrects=True
                )
        return Table(
            timesteps=timesteps,
            prediction=convert(config.prediction_type, alpha[:-1], spread[:-1]),
            update=update,
            noise=np.zeros(count),
            draws=np.full(count, False),
            forward=np.stack([alpha[known], spread[known]], axis=1),
            corrector=corrector,
        )

    def limit(self) -> Clip | Threshold | None:
        limit = super().limit()
        if limit is not None and not self.config.predict_x0:
            raise SchedulerError("scheduler config: `thresholding` is not supported without `predict_x0`")
        return limit

    def _order(self, i: int, count: int, first: int) -> int:
        """The order of step i's predictor, and of the corrector that follows it."""
        config = self.config
        order = min(config.solver_order, max(i - first, 0) + 1)
        if config.lower_order_final:
            return min(order, count - i)
        if i == count - 1 and order > 1 and config.final_sigmas_type == "zero":
            raise SchedulerError(
                "scheduler config: a `solver_order` above 1 without `lower_order_final` cannot end at sigma 0; "
                "set `final_sigmas_type` to sigma_min, or `lower_order_final` to true"
            )
        return order

    def _weights(self, sigmas: Float64, *, corrects: bool) -> tuple[float, float, Float64]:
        """The weights of UniC (theorem 3.1 of the paper) or UniP (corollary 3.2), in the form for x̂_0 or for ε̂.

        Args:
            sigmas: the noise levels of the predictions, the last of which is the step's start, and of the step's end,
                (order + 1,).
            corrects: whether the weights are UniC's, which also uses the prediction at the end.

        Returns:
            The weights of the sample at the start, of the prediction at the end, and of the predictions up to the
            start, latest first.
        """
        order = len(sigmas) - 1
        start, end = sigmas[-2:]
        alpha, spread = schedule.signal_and_noise(sigmas)
        past_weights = np.zeros(order)
        if self.config.predict_x0:
            sample_weight, past_weights[0] = spread[-1] / spread[-2], alpha[-1] * (1 - end / start)
        else:
            sample_weight, past_weights[0] = alpha[-1] / alpha[-2], -alpha[-1] * (start - end)
        if (order == 1 and not corrects) or end == start:
            return sample_weight, 0.0, past_weights

        # h is the step in λ; its sign follows the exponential that the integral is over.
        lambdas = -np.log(sigmas)
        step = lambdas[-1] - lambdas[-2]
        h = -step if self.config.predict_x0 else step
        scale = h if self.config.solver_type == "bh1" else math.expm1(h)
        positions = (lambdas[-3::-1] - lambdas[-2]) / step  # (order - 1,), of earlier predictions; the end is 1
        rho = _rho(np.append(positions, 1.0), h, scale, corrects=corrects)
        factor = -scale * (alpha[-1] if self.config.predict_x0 else spread[-1])
        past_weights[1:] = factor * rho[: order - 1] / positions
        end_weight = factor * rho[-1] if corrects else 0.0
        past_weights[0] -= past_weights[1:].sum() + end_weight
        return sample_weight, end_weight, past_weights


def _rho(positions: Float64, h: float, scale: float, *, corrects: bool) -> Float64:
    """The weights a_m of the differences D_m / r_m, which solve the linear system of theorem 3.1 of the paper.

    Args:
        positions: the positions r_m of the predictions, in steps from the start, (order,); the last, 1, is the end.
        h: the step in λ, signed.
        scale: B(h).
        corrects: whether the weights are UniC's.

    Returns:
        (order,) for UniC, (order - 1,) for UniP. A single weight is 1/2, independent of h.
    """
    count = len(positions) if corrects else len(positions) - 1
    if count == 1:
        return np.array([0.5])
    phi, factorial = math.expm1(h) / h - 1, 1.0  # h·φ_{k+2}(h), where φ_{k+1} = (φ_k - 1/k!) / h
    target = np.empty(count)
    for k in range(count):
        target[k] = phi * factorial / scale
        factorial *= k + 2
        phi = phi / h - 1 / factorial
    powers = positions[:count] ** np.arange(count)[:, None]
    return np.linalg.solve(powers, target)

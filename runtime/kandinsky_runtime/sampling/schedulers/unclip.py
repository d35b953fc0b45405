"""UnCLIP: DDPM on the cosine schedule, the scheduler of the prior.

The process is DDPM's (Ho et al. 2020, arXiv:2006.11239) with the betas of Nichol & Dhariwal 2021 (arXiv:2102.09672)
eq. 17. The betas are recomputed for skipped timesteps, as in section 4 there. The prior is that of Ramesh et al. 2022
(arXiv:2204.06125).
"""

from __future__ import annotations

import numpy as np

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import Options
from kandinsky_runtime.sampling.schedulers.ddpm import LEAST_VARIANCE, log_std_range, posterior_mean, posterior_variance
from kandinsky_runtime.sampling.schedulers.sampler import Source
from kandinsky_runtime.sampling.schedulers.schedule import Float64
from kandinsky_runtime.sampling.schedulers.table import Table


class UnCLIP(Scheduler):
    """The prior's scheduler: timesteps spread from T - 1 to 0, both included."""

    class_name = "UnCLIPScheduler"
    source = Source("prior", "predicted_image_embedding")
    options = Options(
        reads=frozenset(
            {
                "num_train_timesteps",
                "variance_type",
                "clip_sample",
                "clip_sample_range",
                "prediction_type",
                "beta_schedule",
            }
        ),
        defaults={"beta_schedule": "squaredcos_cap_v2", "variance_type": "fixed_small_log"},
        choices={
            "variance_type": ("fixed_small_log", "learned_range"),
            "prediction_type": ("epsilon", "sample"),
            "beta_schedule": ("squaredcos_cap_v2",),
        },
    )

    @property
    def predicts_variance(self) -> bool:
        """See `Scheduler.predicts_variance`."""
        return self.config.variance_type == "learned_range"

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        config = self.config
        if steps < 2:
            raise SchedulerError(f"num_inference_steps is {steps}; expected at least 2 for {self.class_name}")
        stride = (config.num_train_timesteps - 1) / (steps - 1)
        timesteps = (np.arange(steps) * stride).round()[::-1].astype(np.int64)
        previous = np.append(timesteps[1:], -1)
        betas = schedule.betas(config).astype(np.float64)
        alpha = schedule.alphas_cumprod(config).astype(np.float64)[timesteps]
        alpha_prev = np.append(alpha[1:], 1.0)
        # A step to the neighbouring timestep uses the schedule's β; a longer one the β of all timesteps that it skips.
        neighbours = previous == timesteps - 1
        skipping = schedule.rounded(1 - schedule.alpha_ratio(alpha, alpha_prev))
        beta: Float64 = np.where(neighbours, betas[timesteps], skipping)
        variance = np.maximum(posterior_variance(alpha, alpha_prev, beta), LEAST_VARIANCE)
        return Table(
            timesteps=timesteps,
            prediction=schedule.prediction_to_x0(config.prediction_type, np.sqrt(alpha), np.sqrt(1 - alpha)),
            update=posterior_mean(alpha, alpha_prev, 1 - beta, beta),
            noise=np.sqrt(variance),
            draws=timesteps > 0,
            forward=np.sqrt(np.stack([alpha, 1 - alpha], axis=1)),
            log_std=log_std_range(variance, beta) if self.predicts_variance else None,
        )

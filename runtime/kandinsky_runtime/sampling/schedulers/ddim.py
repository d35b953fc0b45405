"""DDIM: the non-Markovian process that shares DDPM's marginals (Song et al. 2021, arXiv:2010.02502)."""

from __future__ import annotations

import numpy as np

from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import CLIP_OPTIONS, SCHEDULE_OPTIONS, THRESHOLD_OPTIONS, Options
from kandinsky_runtime.sampling.schedulers.table import Table


class DDIM(Scheduler):
    """DDIM without the noise of eq. 16, so deterministic: diffusers' default, eta = 0.

    Every step goes back T // n timesteps for any spacing, as in diffusers. Below timestep 0, ᾱ is 1 if
    `set_alpha_to_one`, else ᾱ_0.
    """

    class_name = "DDIMScheduler"
    options = Options(reads=SCHEDULE_OPTIONS | CLIP_OPTIONS | THRESHOLD_OPTIONS | {"set_alpha_to_one"})

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        config = self.config
        timesteps = schedule.timesteps(config, steps)
        alphas = schedule.alphas_cumprod(config).astype(np.float64)
        previous = timesteps - config.num_train_timesteps // steps
        alpha = alphas[timesteps]
        final = 1.0 if config.set_alpha_to_one else alphas[0]
        alpha_prev = np.where(previous >= 0, alphas[np.maximum(previous, 0)], final)

        # Eq. 12 with σ = 0: next = sqrt(ᾱ_prev)·x̂_0 + sqrt(1 - ᾱ_prev)·ε̂
        direction = np.sqrt(1 - alpha_prev)
        signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
        epsilon_weights = schedule.prediction_to_epsilon(config.prediction_type, signal, spread)
        return Table(
            timesteps=timesteps,
            prediction=schedule.prediction_to_x0(config.prediction_type, signal, spread),
            update=np.column_stack([direction[:, None] * epsilon_weights, np.sqrt(alpha_prev)]),
            noise=np.zeros(len(timesteps)),
            draws=np.zeros(len(timesteps), dtype=np.bool_),
            forward=np.stack([signal, spread], axis=1),
        )

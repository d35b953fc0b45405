"""Euler's method with noise added after each step, as in ancestral sampling.

From k-diffusion (Crowson), `get_ancestral_step`. The variance σ_to² at the end of a step is σ_down² + σ_up²: Euler's
step goes down to σ_down, and fresh noise adds σ_up. σ_up is DDPM's deviation (Ho et al. 2020, arXiv:2006.11239, eq. 7)
in terms of σ.
"""

from __future__ import annotations

import numpy as np

from kandinsky_runtime.sampling.schedulers import schedule
from kandinsky_runtime.sampling.schedulers.base import Scheduler
from kandinsky_runtime.sampling.schedulers.config import SCHEDULE_OPTIONS, Options
from kandinsky_runtime.sampling.schedulers.euler import euler_table, float_timesteps, levels_at
from kandinsky_runtime.sampling.schedulers.table import Table


class EulerAncestral(Scheduler):
    """Ancestral Euler; epsilon and v prediction only. It draws noise at every step, with weight 0 at the last."""

    class_name = "EulerAncestralDiscreteScheduler"
    options = Options(
        reads=SCHEDULE_OPTIONS,
        defaults={"timestep_spacing": "linspace"},
        choices={"prediction_type": ("epsilon", "v_prediction")},
    )

    def table(self, steps: int, first: int = 0) -> Table:
        """See `Scheduler.table`."""
        training = schedule.training_sigmas(schedule.finite_sigma_alphas(self.config))
        timesteps = float_timesteps(self.config, steps)
        sigmas = schedule.ending(levels_at(timesteps, training), 0.0)
        # In float32, as in diffusers: if σ is large, σ_down is mostly rounding.
        start, end = sigmas[:-1].astype(np.float32), sigmas[1:].astype(np.float32)
        up = np.sqrt(np.square(end) * (np.square(start) - np.square(end)) / np.square(start))
        down = np.sqrt(np.square(end) - np.square(up))
        return euler_table(
            self.config, timesteps, sigmas, to=down.astype(np.float64), noise=up.astype(np.float64), draws=True
        )

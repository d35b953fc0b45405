"""Euler's method with noise put back after each step, as ancestral sampling does.

From k-diffusion (Crowson), `get_ancestral_step`: the variance σ_to² at the end of a step is the sum of σ_up² of fresh
noise and σ_down² of what Euler's step leaves, with σ_up that of DDPM (Ho et al. 2020, arXiv:2006.11239, eq. 7) in
terms of σ.
"""

from __future__ import annotations

import numpy as np

from kandinsky_runtime.schedulers import schedule
from kandinsky_runtime.schedulers.config import Options
from kandinsky_runtime.schedulers.euler import NOISE_LEVEL_OPTIONS, euler_table, float_timesteps, levels_at
from kandinsky_runtime.schedulers.sampler import Scheduler, Table


class EulerAncestral(Scheduler):
    """Ancestral Euler; epsilon and v prediction only. It draws noise at every step, weighted with 0 at the last."""

    class_name = "EulerAncestralDiscreteScheduler"
    options = Options(
        reads=NOISE_LEVEL_OPTIONS,
        defaults={"timestep_spacing": "linspace"},
        choices={"prediction_type": ("epsilon", "v_prediction")},
    )

    def table(self, steps: int, eta: float) -> Table:
        """See `Scheduler.table`."""
        training = schedule.training_sigmas(schedule.finite_sigma_alphas(self.config))
        timesteps = float_timesteps(self.config, steps)
        sigmas = schedule.ending(levels_at(timesteps, training), 0.0)
        start, end = sigmas[:-1], sigmas[1:]
        down = np.square(end) / start
        up = np.sqrt(np.square(end) - np.square(down))
        return euler_table(self.config, timesteps, sigmas, to=down, noise=up, draws=True)

"""The coefficients of a trajectory: a scheduler computes them, and a sampler needs nothing else of the method.

Legend: n steps · h = order of the method

A step is
    x̂ = p₀·sample + p₁·output                                       the prediction, clipped or thresholded if configured
    next = u₀·sample + u₁·output + u₂·x̂ + Σ_k u₂₊ₖ·x̂(k steps ago) + s·noise
with the weights p, u, s of its row. A corrector replaces `sample` in the second line by
    c₀·(sample of the last step) + Σ_k c₁₊ₖ·x̂(k steps ago)
If neither clipping nor a later step needs x̂, its row is folded into u₀ and u₁, and the step is one linear combination.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import SchedulerError
from kandinsky_runtime.sampling.schedulers.schedule import Float64, Timesteps


@dataclass(frozen=True)
class Table:
    """The coefficients of every step of one trajectory.

    Attributes:
        timesteps: (n,) int64 or float32 timesteps, inputs of the model.
        prediction: (n, 2) weights p of (sample, model output).
        update: (n, 2 + h) weights u of (sample, model output, prediction, prediction one step ago, …).
        noise: (n,) standard deviations s; unused if the variance is learned.
        draws: (n,) bool, true for the steps that draw noise.
        forward: (n, 2) weights of (original, noise) in the forward process to `timesteps`.
        derivative: (n, 2) σ and Δσ of a step next = sample + (sample - x̂) / σ · Δσ + s·noise, evaluated in this order;
            `update` is then None.
        input_scale: (n,) divisors of the model's input, or None.
        init_noise_sigma: the standard deviation of the first latents.
        corrector: (n, 1 + k) weights c of (sample of the last step, prediction, prediction one step ago, …), or None; a
            row of zeros leaves the sample unchanged.
        log_std: (n, 2) weights a for a "learned_range" variance v: the noise's log standard deviation is a₀ + a₁·v.
        learned_std: whether the variance v is "learned": the standard deviation is then sqrt(v).
    """

    timesteps: Timesteps
    prediction: Float64
    update: Float64 | None
    noise: Float64
    draws: npt.NDArray[np.bool_]
    forward: Float64
    derivative: Float64 | None = None
    input_scale: Float64 | None = None
    init_noise_sigma: float = 1.0
    corrector: Float64 | None = None
    log_std: Float64 | None = None
    learned_std: bool = False

    def __post_init__(self) -> None:
        self.timesteps.setflags(write=False)
        for name in ("prediction", "update", "derivative", "noise", "forward", "corrector", "log_std"):
            if getattr(self, name) is None:
                continue
            finite = np.isfinite(getattr(self, name)).reshape(len(self.timesteps), -1).all(axis=1)
            if not finite.all():
                step = int(np.argmin(finite))
                raise SchedulerError(
                    f"scheduler config: the {name} weights of step {step + 1} (timestep {self.timesteps[step]}) are "
                    "not finite"
                )

    @property
    def learns_variance(self) -> bool:
        """Whether the second half of the model's channels is a variance."""
        return self.learned_std or self.log_std is not None

    @property
    def predictions_in_use(self) -> int:
        """The number of predictions that a step uses, including its own."""
        looked_back = 1 if self.update is None else self.update.shape[1] - 2
        return looked_back if self.corrector is None else max(looked_back, self.corrector.shape[1] - 1)

    def folded(self) -> Table:
        """The same steps without the prediction if only `update` uses it, else the table itself."""
        if self.update is None or self.predictions_in_use > 1:
            return self
        return dataclasses.replace(self, update=self.update[:, :2] + self.update[:, 2:] * self.prediction)

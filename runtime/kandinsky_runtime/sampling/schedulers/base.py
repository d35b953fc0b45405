"""The base class of schedulers: options, a table of coefficients, and a sampler for each trajectory."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from kandinsky_runtime.errors import SchedulerError, UsageError
from kandinsky_runtime.sampling.schedulers.config import Options, SchedulerConfig
from kandinsky_runtime.sampling.schedulers.limits import Clip, Threshold
from kandinsky_runtime.sampling.schedulers.sampler import Sampler, Source
from kandinsky_runtime.sampling.schedulers.table import Table


class Scheduler(ABC):
    """A denoising method and its options. It makes a sampler for each trajectory.

    Attributes:
        config: the options that this scheduler reads.

    Raises:
        SchedulerError: an option is unknown, unsupported or has a bad value; the message names each one.
    """

    class_name: ClassVar[str]
    options: ClassVar[Options]
    source: ClassVar[Source] = Source("unet", "noise_pred")

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config: SchedulerConfig = self.options.read(config, self.class_name)

    @property
    def predicts_variance(self) -> bool:
        """Whether the model's variance channels are used: `Sampler.step` then takes 2C channels instead of C."""
        return False

    def sampler(self, num_inference_steps: int, shape: tuple[int, ...], *, first: int = 0) -> Sampler:
        """Prepare one trajectory.

        Args:
            num_inference_steps: the number of steps, from 1 to `num_train_timesteps`.
            shape: the shape of the latents, (B, C, …).
            first: the step to begin with, from 0. Earlier steps are skipped, as in image-to-image.

        Raises:
            SchedulerError: the number of steps does not fit the options, or there is no step `first`.
            UsageError: `shape` has fewer than two extents, or an extent below 1.
        """
        shape = tuple(operator.index(extent) for extent in shape)
        if len(shape) < 2 or min(shape) < 1:
            raise UsageError(f"shape is {shape}; expected (batch, channels, …), each at least 1")
        first = operator.index(first)
        table = self.table(self._checked_steps(num_inference_steps), max(first, 0))
        if not 0 <= first < len(table.timesteps):
            raise SchedulerError(f"the first step is {first}; expected a step from 0 to {len(table.timesteps) - 1}")
        return Sampler(table, shape, self.limit(), self.source, first)

    def coefficients(self, num_inference_steps: int) -> Table:
        """The coefficients of a whole trajectory.

        Raises:
            SchedulerError: the number of steps does not fit the options.
        """
        return self.table(self._checked_steps(num_inference_steps))

    def draws(self, num_inference_steps: int) -> int:
        """The number of steps that draw noise in a whole trajectory; see `coefficients` for errors."""
        return int(self.coefficients(num_inference_steps).draws.sum())

    @abstractmethod
    def table(self, steps: int, first: int = 0) -> Table:
        """The coefficients of a trajectory of `steps` steps that begins with step `first`."""

    def limit(self) -> Clip | Threshold | None:
        """The limit of predictions, or None."""
        if self.config.thresholding and "thresholding" in self.options.reads:
            return Threshold(self.config.dynamic_thresholding_ratio, self.config.sample_max_value)
        if self.config.clip_sample and "clip_sample" in self.options.reads:
            return Clip(self.config.clip_sample_range)
        return None

    def _checked_steps(self, steps: int) -> int:
        most = self.config.num_train_timesteps
        if isinstance(steps, bool) or not hasattr(steps, "__index__") or not 1 <= operator.index(steps) <= most:
            raise SchedulerError(f"num_inference_steps is {steps!r}; expected an integer from 1 to {most}")
        return operator.index(steps)

"""One run's way from noise to latents, a step at a time.

    for step in trajectory:
        trajectory.accept(unet.predict(step.i, step.latents, step.timestep, step.guided))

Whoever drives it decides when a step is computed: the pipeline drives one trajectory, another caller several in turn.

Legend: B samples · C latent channels · K output channels of the UNet · h, w latent height and width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.batch import as_latents
from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.errors import TensorError, UsageError
from kandinsky_runtime.observers import RunObserver
from kandinsky_runtime.sampling import guidance
from kandinsky_runtime.sampling.noise import NoiseSource
from kandinsky_runtime.sampling.schedulers import Sampler

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Step:
    """What the UNet is to predict next.

    Attributes:
        i: the step, from 0.
        timestep: the timestep of every sample.
        latents: (B, C, h, w), scaled for the model; valid until the prediction is accepted.
        guided: whether both halves of guidance are needed.
    """

    i: int
    timestep: float
    latents: Array
    guided: bool


class Trajectory:
    """The state of one run between two steps.

    It owns all that changes from step to step: trajectories that are driven in turn do not touch each other.
    Cancellation is checked before a step, progress and the callback follow it.

    Attributes:
        latents: (B, C, h, w) after the steps so far.
        i: the next step.
    """

    def __init__(
        self,
        sampler: Sampler,
        latents: Array,
        noise: NoiseSource,
        *,
        guidance_scale: float,
        interval: guidance.Interval | None = None,
        kept: KeptArea | None = None,
        observer: RunObserver,
        pipeline: object = None,
    ) -> None:
        """Begin before the sampler's first step.

        Args:
            sampler: the run's own; its step `first` is the first.
            latents: (B, C, h, w) to begin with.
            noise: the source of the noise that steps add.
            guidance_scale: the weight of guidance; 1 and below for none.
            interval: the noise levels that are guided; None for all.
            kept: what inpainting keeps; None for nothing.
            observer: progress bar, callback and cancellation.
            pipeline: the callback's first argument.
        """
        self.latents, self.i = latents, sampler.first
        self._sampler, self._noise, self._kept = sampler, noise, kept
        self._scale, self._interval = guidance_scale, interval
        self._observer, self._pipeline = observer, pipeline
        channels = latents.shape[1]
        self._used = 2 * channels if sampler.learns_variance else channels  # of the K output channels
        self._mixed = np.empty((latents.shape[0], self._used, *latents.shape[2:]), np.float32)
        self._drawn = np.empty_like(latents)
        self._fed = -1  # the last step that was given

    @property
    def steps(self) -> int:
        """The number of steps, those before the first one taken included."""
        return len(self._sampler.timesteps)

    @property
    def done(self) -> bool:
        """Whether the last step was accepted."""
        return self.i >= self.steps

    def __iter__(self) -> Iterator[Step]:
        """Every step that is left, under the observer's progress bar; each must be accepted before the next.

        Raises:
            Cancelled: the observer's event was set before the step.
            UsageError: the step before was not accepted.
        """
        with self._observer.bar(self.steps - self.i) as bar:
            while not self.done:
                step = self.feed()
                yield step
                if self.i == step.i:
                    raise UsageError(
                        f"step {step.i + 1} of {self.steps} was not accepted; call accept with the UNet's output before"
                        " the next step"
                    )
                bar.update()

    def feed(self) -> Step:
        """The next step.

        Raises:
            Cancelled: the observer's event was set.
            UsageError: there is none left.
        """
        if self.done:
            raise UsageError(f"all {self.steps} steps were accepted; begin another trajectory")
        self._observer.check_cancelled(self.i, self.steps)
        self._fed = self.i
        timestep = self._sampler.timesteps[self.i].item()
        return Step(self.i, timestep, self._sampler.scale_model_input(self.i, self.latents), self._guided(self.i))

    def accept(self, output: Array) -> None:
        """Take the UNet's output of the step that `feed` gave, and advance by it.

        Args:
            output: (2B, K, h, w) if the step is guided, [negative, positive]; else (B, K, h, w). Never modified.

        Raises:
            InputError: the callback's latents cannot be used.
            NonFiniteError: the latents are not finite.
            TensorError: the output has another shape, or is no array.
            UsageError: `feed` has given no step since the last output was accepted.
        """
        i, sampler = self.i, self._sampler
        if self._fed != i:
            raise UsageError(
                f"got an output after {i} of {self.steps} steps, but no step was given since the last one; call feed,"
                " and accept its output once"
            )
        self._check_output(output)
        if self._guided(i):
            output = guidance.combine(output, self._scale, self.latents.shape[1], self._mixed)
        noise = self._noise.draw(self._drawn.shape, self._drawn) if sampler.draws_noise(i) else None
        latents = sampler.step(i, output[:, : self._used], self.latents, noise)
        if self._kept is not None:
            self._kept.put_back(i, latents)
        after = self._observer.after_step(self._pipeline, i, sampler.timesteps[i].item(), latents)
        if after is not latents:
            latents = as_latents("latents from callback_on_step_end", after, latents.shape)
        self.latents, self.i = latents, i + 1

    def clean(self, output: Array) -> Array:
        """The picture's latents (B, C, h, w) that the UNet predicts at the step that `feed` gave; changes nothing.

        Args:
            output: as for `accept`.
        """
        channels = self.latents.shape[1]
        if self._guided(self.i):
            output = guidance.combine(output, self._scale, channels, np.empty_like(self._mixed))
        return self._sampler.clean(self.i, output[:, :channels], self.latents)

    def _check_output(self, output: Array) -> None:
        batch, _, height, width = self.latents.shape
        rows = 2 * batch if self._guided(self.i) else batch
        shape = output.shape if isinstance(output, np.ndarray) else None
        if shape is None or len(shape) != 4 or shape[1] < self._used or shape != (rows, shape[1], height, width):
            raise TensorError(
                f"step {self.i + 1} of {self.steps}: the UNet's output is"
                f" {type(output).__name__ if shape is None else shape}; expected an array of shape"
                f" {(rows, self._used, height, width)}, with as many channels or more"
            )

    def _guided(self, i: int) -> bool:
        if not guidance.is_guided(self._scale):
            return False
        return self._interval is None or self._interval.holds(self._sampler.sigma(i))

"""The denoising loop, in numpy around the compiled UNet, whatever it makes.

Legend: B samples · C latent channels · K output channels of the UNet · h, w latent height and width
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.decoder.request import SampleRequest
from kandinsky_runtime.decoder.unet import UNetFeeds
from kandinsky_runtime.engines.base import Engine
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.observers import Clock, Watch
from kandinsky_runtime.sampling import guidance, schedulers
from kandinsky_runtime.sampling.noise import NoiseSource

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DenoisingLoop:
    """One trajectory of the UNet.

    Attributes:
        graphs: with the UNet. With `low_memory` the halves of guidance run one after the other: memory for one, and one
            shape for all steps.
        sampler: of the run; it begins with its step `first`.
        source: of the noise that steps add.
        uses_variance: whether the scheduler takes the UNet's variance channels.
        watch, clock: who looks on.
        pipeline: what the callback is told that runs.
        interval: the noise levels at which guidance acts; None for all. At the others the UNet runs on the positive
            half alone.
    """

    graphs: Graphs
    sampler: schedulers.Sampler
    source: NoiseSource
    uses_variance: bool
    watch: Watch
    clock: Clock
    pipeline: object
    interval: guidance.Interval | None = None

    def run(self, request: SampleRequest, latents: Array, kept: KeptArea | None = None) -> Array:
        """The latents after the last step, (B, C, h, w).

        Args:
            request: embeddings, guidance and shape.
            latents: to begin with, (B, C, h, w).
            kept: what inpainting keeps.

        Raises:
            Cancelled: between two steps.
            EngineError, NonFiniteError: the UNet failed, or returned no finite numbers.
            InputError: the callback's latents cannot be used.
        """
        sampler, channels, steps = self.sampler, latents.shape[1], len(self.sampler.timesteps)
        used = channels * 2 if self.uses_variance else channels
        feeds = UNetFeeds(request, None if kept is None else kept.channels)
        mixed = np.empty((request.batch, used, *latents.shape[2:]), np.float32)
        drawn = np.empty_like(latents)
        unet = self.graphs.engine("unet")

        for i, timestep in self.watch.steps(sampler.timesteps.tolist(), sampler.first):
            guided = request.guided and (self.interval is None or self.interval.holds(sampler.sigma(i)))
            feeds.fill(sampler.scale_model_input(i, latents), timestep)
            with self.clock("unet"):
                output = self._predict(unet, feeds, guided, f"step {i + 1} of {steps} (timestep {timestep:g})")
            if guided:
                output = guidance.combine(output, request.guidance_scale, channels, mixed)
            noise = self.source.draw(drawn.shape, drawn) if sampler.draws_noise(i) else None
            latents = sampler.step(i, output[:, :used], latents, noise)
            if kept is not None:
                kept.put_back(i, latents)
            after = self.watch.after_step(self.pipeline, i, timestep, latents)
            if after is not latents:
                latents = request.checked_latents(after)
        return latents

    def _predict(self, unet: Engine, feeds: UNetFeeds, guided: bool, during: str) -> Array:
        """The UNet's output: (2B, K, h, w) with guidance, else (B, K, h, w)."""
        if guided and not self.graphs.low_memory:
            return unet.run(feeds.whole, during=during)["noise_pred"]
        halves = feeds.halves if guided else feeds.halves[-1:]
        outputs = [unet.run(half, during=during)["noise_pred"] for half in halves]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

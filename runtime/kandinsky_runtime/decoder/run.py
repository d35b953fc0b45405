"""The story of one run, from checked inputs to finished pictures; inpainting and generating alike.

    run = pipeline.prepare(options)               everything is checked, nothing is computed
    trajectory = run.begin()                      prompt → embeddings, pictures → latents, first noise
    for step in trajectory:                       UNet and scheduler, a step at a time
        trajectory.accept(run.predict(step))
    images = run.finish(trajectory.latents)       latents → pictures, pasted back

`run.units()` is the same story in units of work, for callers that drive several runs.

Legend: B samples · C latent channels · K output channels of the UNet · h, w latent height and width
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.batch import as_latents
from kandinsky_runtime.decoder import movq
from kandinsky_runtime.decoder.options import DecoderOptions
from kandinsky_runtime.decoder.request import Request
from kandinsky_runtime.decoder.tiles import Tiling
from kandinsky_runtime.decoder.trajectory import Step, Trajectory
from kandinsky_runtime.decoder.unet import UNet
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.observers import Clock, RunObserver
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.prior.plan import PromptPlan
from kandinsky_runtime.sampling import guidance
from kandinsky_runtime.sampling.noise import ReplayNoise, RunNoise
from kandinsky_runtime.sampling.schedulers import Sampler
from kandinsky_runtime.units import Unit, Units, do_all

Array = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


@dataclass
class Run:
    """One run of the decoder; `DecoderPipeline.prepare` makes it. It runs once: its noise is used up then.

    Attributes:
        graphs: the bundle's graphs on their engine.
        prior: the bundle's prior, on the same graphs.
        tiling: the tiles that MoVQ works in; None for whole pictures.
        options: the run's options.
        request: the checked inputs; its embeddings are filled in by `begin` if there is a prompt.
        plan: the checked prompts; None if embeddings were given.
        sampler: the scheduler's coefficients and buffers, of this run alone.
        interval: the noise levels that are guided; None for all.
        noise: the noise sources, of this run alone.
        observer: progress, callback and cancellation.
        pipeline: the callback's first argument.
        clock: the seconds of each phase.
        failures: what could not be done after the results were finished, one sentence each; they are among the notes.
    """

    graphs: Graphs
    prior: PriorPipeline
    tiling: Tiling | None
    options: DecoderOptions
    request: Request
    plan: PromptPlan | None
    sampler: Sampler
    interval: guidance.Interval | None
    noise: RunNoise
    observer: RunObserver
    pipeline: object = None
    clock: Clock = field(default_factory=Clock)
    failures: list[str] = field(default_factory=list, init=False, repr=False)
    _late_notes: list[str] = field(default_factory=list, init=False, repr=False)
    _begun: bool = field(default=False, init=False, repr=False)
    _unet: UNet | None = field(default=None, init=False, repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, one sentence each, and how the inputs were understood."""
        return (*self._warnings, *self._late_notes, *self.request.understood)

    @property
    def _warnings(self) -> tuple[str, ...]:
        return (*(() if self.plan is None else self.plan.notes), *self.request.notes)

    @property
    def guided(self) -> bool:
        """Whether the UNet runs on [negative, positive] halves."""
        return guidance.is_guided(self.options.guidance_scale)

    @property
    def steps(self) -> int:
        """The decoder's steps."""
        return len(self.sampler.timesteps) - self.sampler.first

    def units(self) -> Units[list[Image.Image] | Array]:
        """Do everything, from the prompt to the results, in units of work; errors are those of `begin`, `predict` and
        `finish`.

        A `StepUnit` may be answered with the UNet's output, if the caller computed it with those of other runs.

        Raises:
            UsageError: the run was begun before.
        """
        self._begin_once()
        for note in self._warnings:
            _log.warning(note)
        for note in self.request.understood:
            _log.info(note)
        with self.graphs.run():
            if self.request.keeps_everything:
                return (yield from self._untouched())
            try:
                trajectory = yield from self._begin()
                for step in trajectory:
                    output = yield self._step_unit(trajectory, step)
                    with self.clock("denoise"):
                        trajectory.accept(self.predict(step) if output is None else output)
                return (yield from self._finish(trajectory.latents))
            finally:  # also if the run failed, was cancelled, or is driven no further
                self._end_steps()

    def begin(self) -> Trajectory:
        """Do everything that comes before the first step.

        Raises:
            EngineError, NonFiniteError: a graph could not be loaded or run, or returned no finite numbers.
            Cancelled: during the prior's steps.
            UsageError: the run was begun before.
        """
        self._begin_once()
        return do_all(self._begin())

    def _begin_once(self) -> None:
        if self._begun:  # the noise sources go on where they are: the same seeds would give another picture
            raise UsageError("this run was begun before, and its noise is used up; prepare or plan another one")
        self._begun = True

    def _begin(self) -> Units[Trajectory]:
        if self.plan is not None:
            yield from self._embed(self.plan)
        request = self.request
        yield Unit("load", 0, 1, 1)
        self._load()
        encoded = yield from self._encoded()
        with self.clock("denoise"):
            noise = self.noise.batch
            first = noise.draw(request.latent_shape) if request.latents is None else request.latents
            latents, kept = request.begin(first, encoded, self.sampler)
            self._unet = UNet(
                self.graphs,
                request.latent_shape,
                request.image_embeds,
                request.negative_image_embeds if self.guided else None,
                None if kept is None else kept.channels,
                steps=len(self.sampler.timesteps),
            )
            return Trajectory(
                self.sampler,
                latents,
                noise,
                guidance_scale=self.options.guidance_scale,
                interval=self.interval,
                kept=kept,
                observer=self.observer,
                pipeline=self.pipeline,
            )

    def predict(self, step: Step) -> Array:
        """The UNet's output for a step of the run's trajectory; see `UNet.predict`."""
        with self.clock("unet"):
            return self.unet.predict(step.i, step.latents, step.timestep, step.guided)

    @property
    def unet(self) -> UNet:
        """The run's UNet, between `begin` and `finish`."""
        if self._unet is None:
            raise Kandinsky22Error("the run was not begun; call begin first")
        return self._unet

    def finish(self, latents: Array) -> list[Image.Image] | Array:
        """The results, from the latents (B, C, h, w) after the last step; writes the recording of the noise.

        The results are not lost if the recording cannot be written: see `failures`.

        Raises:
            EngineError, NonFiniteError: the decoder failed, or returned no finite numbers.
            InputError: the latents are not those of the run: another shape, or no finite numbers.
        """
        return do_all(self._finish(as_latents("latents", latents, self.request.latent_shape)))

    def _finish(self, latents: Array) -> Units[list[Image.Image] | Array]:
        self._end_steps()
        images: list[Image.Image] | Array = latents
        if self.options.output_type != "latent":
            request = self.request
            decoded = yield from movq.decode(
                self.graphs, latents, request.height, request.width, self.tiling, self.clock
            )
            with self.clock("decode"):
                images = request.finished(decoded, self.options.output_type)
        if isinstance(self.options.noise, ReplayNoise) and (unused := self.options.noise.unused) is not None:
            self._note(unused)
        self._save_recording()
        return images

    def _note(self, text: str) -> None:
        """Add a note that only the end of the run has given a reason for."""
        self._late_notes.append(text)
        _log.warning(text)

    def preview(self, latents: Array) -> Units[Image.Image]:
        """The first sample's picture of latents (B, C, h, w) on the way, finished like a result."""
        request = self.request
        decoded = yield from movq.decode(
            self.graphs, latents[:1], request.height, request.width, self.tiling, self.clock
        )
        (picture,) = request.finished(decoded, "pil")
        return picture

    def _step_unit(self, trajectory: Trajectory, step: Step) -> StepUnit:
        size = step.latents.size * (2 if step.guided else 1)
        return StepUnit("denoise", step.i, trajectory.steps, size, self, trajectory, step)

    def _end_steps(self) -> None:
        if self._unet is not None:
            self._unet.end()
            self._unet = None

    def _untouched(self) -> Units[list[Image.Image] | Array]:
        """The results of a request that keeps everything: the pictures as they came in, or their latents."""
        if self.options.output_type == "latent":
            return (yield from self._encoded())
        return self.request.untouched(self.options.output_type)

    def _embed(self, plan: PromptPlan) -> Units[None]:
        """Put the prior's embeddings of the prompts into the request."""
        repeats = self.options.num_images_per_prompt
        samples = plan.per_sample(self.request.batch // repeats, repeats)
        observer = replace(self.observer, callback=None, title="prior")
        positive, negative = yield from self.prior.embed(plan, samples, self.noise.samples, observer, self.clock)
        self.request = replace(self.request, image_embeds=positive, negative_image_embeds=negative)

    def _load(self) -> None:
        """Load the graphs that the run needs, so that a graph that cannot be loaded fails before any work."""
        needed = [
            *(["movq_encoder"] if len(self.request.pixels) else []),
            "unet",
            *([] if self.options.output_type == "latent" else ["movq_decoder"]),
        ]
        with self.clock("load"):
            self.graphs.load(needed)

    def _encoded(self) -> Units[Array]:
        """Latents (B, C, h, w) of the samples' pictures; empty without pictures."""
        if not len(self.request.pixels):
            return np.empty((0, *self.request.latent_shape[1:]), np.float32)
        latents = yield from movq.encode(self.graphs, self.request.pixels, self.tiling, self.clock)
        return latents[list(self.request.picture_of)]

    def _save_recording(self) -> None:
        path: str | os.PathLike[str] | None = self.options.record_noise
        if self.noise.recording is None or path is None:
            return
        try:
            self.noise.recording.save(Path(path))
        except OSError as error:
            failure = f"the noise recording {path} cannot be written: {error.strerror}"
            self.failures.append(failure)
            self._note(failure)


@dataclass(frozen=True)
class StepUnit(Unit):
    """A step of the decoder.

    Attributes:
        run: the run that the step belongs to.
        trajectory: the run's way so far; the caller does not change it.
        step: the UNet's next inputs.
    """

    run: Run
    trajectory: Trajectory
    step: Step

"""From prompts to image embeddings: the text and picture encoders and the prior, on the same engines.

Ramesh et al. 2022 (arXiv:2204.06125), section 2.2: a diffusion model of CLIP image embeddings given a text.

Legend: B samples · R embeddings that the prior makes at once · N texts · T text tokens · D width of the text encoder
        E embedding width
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.batch import seeds_for
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import PICTURE_PROMPT, PRIOR_COMPONENTS, PROMPT, PriorEntry
from kandinsky_runtime.checks import real_number, whole_number
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.registry import AUTO
from kandinsky_runtime.errors import BundleError, InputError, SchedulerError
from kandinsky_runtime.limits import MAX_PIXELS, MAX_RESULTS
from kandinsky_runtime.observers import Clock, RunObserver, StepCallback
from kandinsky_runtime.prior.clip_image import ClipImageProcessor
from kandinsky_runtime.prior.constants import read_constants
from kandinsky_runtime.prior.loop import denoise
from kandinsky_runtime.prior.plan import EmbeddingTask, PromptPlan, embeddings_to_make, truncation_notes
from kandinsky_runtime.prior.prompt_syntax import syntax_notes
from kandinsky_runtime.prior.prompts import Prompt, read_negative_prompts, read_prompts
from kandinsky_runtime.prior.text import Texts
from kandinsky_runtime.sampling import guidance, schedulers
from kandinsky_runtime.sampling.noise import NoiseSource, RunNoise
from kandinsky_runtime.units import Unit, Units, do_all

Array = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)

STEPS, GUIDANCE_SCALE = 25, 4.0  # the defaults of diffusers


@dataclass(frozen=True)
class PriorOutput:
    """The result of the prior.

    Attributes:
        image_embeds, negative_image_embeds: float32 (B, E) inputs of `InpaintPipeline` and `GeneratePipeline`.
        seeds: the seed of each sample, or None if the noise came from a caller's source.
        notes: messages for the user, one sentence each.
        seconds: the duration of each phase that ran: `encode_text`, `encode_pictures` and `prior`.
    """

    image_embeds: Array
    negative_image_embeds: Array
    seeds: tuple[int | None, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]


@dataclass(eq=False)
class PriorPipeline:
    """A bundle's prior with an engine, ready to make embeddings; also a context manager.

    Create one with `PriorPipeline.load`, or from the graphs of another pipeline.

    Attributes:
        graphs: the bundle's graphs.
    """

    graphs: Graphs

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: Texts | None = None
        self._arrays: dict[str, Array] | None = None

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        *,
        low_memory: bool = False,
        shape_memory: int | str | None = None,
        trust_bundle: bool = False,
        progress: bool = False,
    ) -> PriorPipeline:
        """Open a bundle and choose the engine; see `InpaintPipeline.load` for arguments and errors.

        Raises:
            UsageError: the bundle has no prior.
        """
        opened = Bundle.of(bundle, trust=trust_bundle)
        own = [name for name in PRIOR_COMPONENTS if name in opened.manifest.components]
        graphs = Graphs.open(
            opened,
            engine,
            precision,
            device,
            threads,
            components=own or None,
            low_memory=low_memory,
            shape_memory=shape_memory,
            progress=progress,
        )
        pipeline = cls(graphs)
        pipeline.entry  # noqa: B018 (reports a bundle without a prior now)
        return pipeline

    @property
    def entry(self) -> PriorEntry:
        """The prior's entry in the bundle's manifest.

        Raises:
            UsageError: the bundle has no prior.
        """
        manifest = self.graphs.bundle.manifest
        if manifest.prior is None:
            raise self.graphs.bundle.cannot(PROMPT)
        return manifest.prior

    def __call__(
        self,
        prompt: Any,
        negative_prompt: str | Sequence[str] | None = None,
        *,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        noise: str | NoiseSource = "torch",
        max_pixels: int = MAX_PIXELS,
        callback_on_step_end: StepCallback | None = None,
        cancel: threading.Event | None = None,
        progress: bool = False,
    ) -> PriorOutput:
        """Make image embeddings from prompts.

        Args:
            prompt: a text, a picture, a `Mix` of both, or a list of them; see `prompts.read_prompts`.
            negative_prompt: a description of what not to show, one for all prompts or one for each. None uses the
                embedding of no picture.
            num_images_per_prompt: the number of embeddings for each prompt, each with its own seed.
            num_inference_steps: the number of steps of the prior's loop, at least 2; None means 25.
            guidance_scale: the weight of classifier-free guidance, which is off at 1 and below; None means 4.
            seed: the seed of the noise, as in `InpaintPipeline`.
            noise: "torch" for the numbers of `torch.Generator("cpu")`, "numpy", or a source to draw from.
            max_pixels: the most pixels of a picture that is read.
            callback_on_step_end: a function that is called as (pipeline, step, timestep, {"latents": …}) after each
                step.
            cancel: an event that stops the run between two steps.
            progress: whether to show a bar of the steps on stderr.

        Returns:
            The embeddings, seeds, notes and times.

        Raises:
            InputError: a prompt is invalid.
            UsageError: an option is invalid, or the bundle lacks a graph for the prompt.
            EngineError, NonFiniteError: a graph could not be loaded or run, or returned NaN or infinite numbers.
            Cancelled: `cancel` was set.
        """
        observer = RunObserver(callback_on_step_end, cancel, progress, "prior")
        repeats = whole_number("num_images_per_prompt", num_images_per_prompt, 1, MAX_RESULTS)
        plan = self.plan(prompt, negative_prompt, num_inference_steps, guidance_scale, max_pixels)
        batch = whole_number("the number of results", len(plan.prompts) * repeats, 1, MAX_RESULTS)
        drawn = RunNoise(noise, seeds_for(seed, batch))
        clock = Clock()
        for note in plan.notes:
            _log.warning(note)
        with self.graphs.run():
            samples = plan.per_sample(len(plan.prompts), repeats)
            positive, negative = do_all(self.embed(plan, samples, drawn.samples, observer, clock))
        return PriorOutput(positive, negative, drawn.seeds, plan.notes, clock.seconds)

    def plan(
        self,
        prompt: Any,
        negative_prompt: str | Sequence[str] | None,
        num_inference_steps: int | None,
        guidance_scale: float | None,
        max_pixels: int = MAX_PIXELS,
    ) -> PromptPlan:
        """Check all arguments and tokenize the texts; see `__call__`.

        Raises:
            BundleError: the tokenizer's files are damaged.
            EngineUnavailable: the tokenizer's library is not installed.
            InputError, UsageError: see `__call__`.
        """
        bundle, entry = self.graphs.bundle, self.entry
        whole_number("max_pixels", max_pixels, 1)
        prompts, pictures = read_prompts(prompt)
        negatives = read_negative_prompts(negative_prompt, len(prompts))
        texts = [text for item in prompts for text in item.texts] + [text for text in negatives if text is not None]
        if texts:
            bundle.require(PROMPT)
        if pictures:
            bundle.require(PICTURE_PROMPT)
        scale = real_number("guidance_scale", GUIDANCE_SCALE if guidance_scale is None else guidance_scale, 0)
        steps = STEPS if num_inference_steps is None else num_inference_steps
        steps = whole_number("num_inference_steps of the prior", steps, 2)
        scheduler = schedulers.load(entry.scheduler)
        if scheduler.predicts_variance:
            raise BundleError(bundle.subject, ["the prior's scheduler has a learned variance, which no prior predicts"])
        try:
            scheduler.draws(steps)  # refuses an invalid number of steps
        except SchedulerError as error:
            raise SchedulerError(f"the prior: {error}") from error
        if texts and guidance.is_guided(scale):
            texts.append("")
        used = list(dict.fromkeys(texts))
        tokens = self._text_encoder().tokens(used) if used else None
        pixels, notes = self._pixels(pictures, max_pixels)
        if tokens is not None:
            notes += [*syntax_notes(texts), *truncation_notes(tokens)]
        return PromptPlan(
            prompts=tuple(prompts),
            negatives=tuple(negatives),
            tokens=tokens,
            rows={text: row for row, text in enumerate(used)},
            pictures=pixels,
            scheduler=scheduler,
            steps=steps,
            guidance_scale=scale,
            notes=tuple(notes),
        )

    def embed(
        self,
        plan: PromptPlan,
        samples: Sequence[tuple[Prompt, str | None]],
        sources: Sequence[NoiseSource],
        observer: RunObserver,
        clock: Clock,
    ) -> Units[tuple[Array, Array]]:
        """Image embeddings and negative ones, each (B, E), in units of work.

        Args:
            plan: the checked prompts.
            samples: the prompt and negative text of each sample, see `PromptPlan.per_sample`.
            sources: the noise source of each sample; the prior draws before the decoder.
            observer: progress, callback and cancellation.
            clock: the clock that measures each phase.

        Raises:
            InputError: the weights of a mix are so large that the sum is not finite.
            EngineError, NonFiniteError, Cancelled: see `__call__`.
        """
        constants = self._constants()
        draws = plan.scheduler.draws(plan.steps)
        tasks: list[EmbeddingTask] = []
        for sample, ((prompt, negative), source) in enumerate(zip(samples, sources, strict=True)):
            tasks += embeddings_to_make(sample, prompt, negative, source, draws, self._width)

        positive = np.zeros((len(samples), self._width), np.float32)
        negatives = np.repeat(constants["negative_image_embeds"], len(samples), axis=0)
        if plan.pictures:
            yield Unit("encode_pictures", 0, 1, len(plan.pictures))
            with clock("encode_pictures"):
                self._add_pictures(plan, [prompt for prompt, _ in samples], positive)
        if plan.tokens is not None and tasks:
            yield Unit("encode_text", 0, 1, len(plan.rows))
            with clock("encode_text"):
                texts = self._text_encoder().encode(plan.tokens)
            sampler = plan.scheduler.sampler(plan.steps, (len(tasks), self._width))
            latents = yield from denoise(self.graphs, plan, tasks, texts, sampler, observer, self, clock)
            made = latents * constants["clip_std"] + constants["clip_mean"]  # (R, E)
            for task, embedding in zip(tasks, made, strict=True):
                if task.weight is None:
                    negatives[task.sample] = embedding
                else:
                    _add(positive[task.sample], task.weight, embedding)
        if not np.isfinite(positive).all():
            raise InputError("the mix overflows float32: its weights are too large; give smaller ones")
        return positive, negatives

    def close(self) -> None:
        """Release every loaded graph, or with calls in progress let the last of them do so at its end."""
        self.graphs.close()

    def __enter__(self) -> PriorPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def negative_image_embeds(self) -> Array:
        """The embedding of no picture, (1, E)."""
        return self._constants()["negative_image_embeds"]

    @property
    def _width(self) -> int:
        return int(self.negative_image_embeds.shape[1])

    def _constants(self) -> dict[str, Array]:
        with self._lock:
            if self._arrays is None:
                bundle = self.graphs.bundle
                width = Geometry.of(bundle.manifest, bundle.subject).embed_width
                self._arrays = read_constants(bundle, self.entry.constants, width)
            return self._arrays

    def _text_encoder(self) -> Texts:
        with self._lock:
            if self._texts is None:
                self._texts = Texts(self.graphs, self.entry)
            return self._texts

    def _pixels(self, pictures: Sequence[Any], max_pixels: int) -> tuple[tuple[Array, ...], list[str]]:
        """The image encoder's inputs of pictures, and what had to be guessed of them."""
        notes: list[str] = []
        if not pictures:
            return (), notes
        processor = ClipImageProcessor.from_config(self.entry.image_processor)
        return tuple(processor([picture], notes, max_pixels) for picture in pictures), notes

    def _add_pictures(self, plan: PromptPlan, prompts: Sequence[Prompt], positive: Array) -> None:
        """Add the weighted embeddings of the prompts' pictures; each different picture is encoded once."""
        made: dict[int, Array] = {}
        for sample, prompt in enumerate(prompts):
            for part, weight in zip(prompt.parts, prompt.weights, strict=True):
                if isinstance(part, str):
                    continue
                if part not in made:
                    outputs = self.graphs.engine("image_encoder").run({"pixel_values": plan.pictures[part]})
                    made[part] = outputs["image_embeds"][0]
                _add(positive[sample], weight, made[part])
        self.graphs.phase_over("image_encoder")


def _add(total: Array, weight: float, embedding: Array) -> None:
    """total += weight · embedding; `embed` checks the complete sum for overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        total += np.float32(weight) * embedding

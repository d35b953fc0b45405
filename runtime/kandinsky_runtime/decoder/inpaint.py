"""Inpainting: a picture, a mask and a prompt or embeddings become a new picture."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any, ClassVar, cast

from kandinsky_runtime.bundle.manifest import INPAINT
from kandinsky_runtime.decoder.declarations import call_signature
from kandinsky_runtime.decoder.inpaint_inputs import InpaintRequest, prepare_inpaint
from kandinsky_runtime.decoder.inpaint_sources import Sources
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.decoder.output import InpaintOutput
from kandinsky_runtime.decoder.parts import parts_of, put_reports_together, put_together
from kandinsky_runtime.decoder.pipeline import DecoderPipeline
from kandinsky_runtime.decoder.recipe import describe_results
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.decoder.work import Work
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.observers import RunObserver, StepCallback, add_up
from kandinsky_runtime.units import do_all

_log = logging.getLogger(__name__)


class InpaintPipeline(DecoderPipeline):
    """A bundle with an engine, ready to inpaint; also a context manager, and safe to share between threads.

    Make one with `InpaintPipeline.load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    tasks: ClassVar[tuple[str, ...]] = (INPAINT,)

    def __call__(
        self,
        *inputs: Any,
        callback_on_step_end: StepCallback | None = None,
        cancel: threading.Event | None = None,
        progress: bool = False,
        **options: Any,
    ) -> InpaintOutput:
        """Repaint the white area of a mask.

        Args:
            inputs: `pipe(prompt, image=…, mask_image=…)`, `pipe(prompt, image, mask_image)`, or with embeddings
                `pipe(image, mask_image, image_embeds=…)`.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step, with a copy of
                the latents; it may change them or return {"latents": …} to go on with.
            cancel: an event that stops the run between two steps.
            progress: whether to show a bar of the steps on stderr.
            options: see `InpaintOptions`.

        Returns:
            Pictures, seeds, notes and times. If no mask has anything to repaint, the pictures are returned as they
            are, and a note says so.

        Raises:
            InputError: an input that cannot be used.
            UsageError: an option with an invalid value.
            EngineError, NonFiniteError: a graph could not be loaded or run, or returned no finite numbers.
            Cancelled: `cancel` was set.
        """
        observer = RunObserver(callback_on_step_end, cancel, progress, InpaintOptions.title)
        return self.run(InpaintOptions(**_by_name(inputs, options)), observer)

    __call__.__signature__ = call_signature(  # type: ignore[attr-defined]
        InpaintOptions, {"callback_on_step_end": None, "cancel": None, "progress": False}
    )

    def run(self, options: InpaintOptions, observer: RunObserver | None = None) -> InpaintOutput:
        """Repaint the white area of a mask, from an options object; results and errors are those of a call."""
        return do_all(self.plan(options, observer).units())

    def plan(self, options: InpaintOptions, observer: RunObserver | None = None) -> Work[InpaintOutput]:
        """Check everything that a call does, before any graph runs; the work may be done in units."""
        parts, sources = parts_of(self.geometry, options)
        if sources is not None:
            return self._plan_parts(parts, sources, observer)
        run = self.prepare(parts[0], observer)

        def put_together(results: list[Any]) -> InpaintOutput:
            describe_results(results[0], run, self.bundle)
            return InpaintOutput(
                results[0],
                run.noise.seeds,
                run.notes,
                run.clock.seconds,
                _request(run).reports,
                failures=tuple(run.failures),
            )

        return Work((run,), put_together)

    def prepare(self, options: InpaintOptions, observer: RunObserver | None = None) -> Run:
        """Check everything, before any graph runs; the run may be driven step by step, see `Run`.

        The run has one area around the whole mask, also if the mask has separate parts.
        """
        return self._prepared(options, observer or RunObserver(title=options.title), prepare_inpaint)

    def _plan_parts(
        self, parts: list[InpaintOptions], sources: Sources, observer: RunObserver | None
    ) -> Work[InpaintOutput]:
        """One run for each separate part of a mask."""
        runs = [self.prepare(parts[0], observer)]
        seeds = [seed for seed in runs[0].noise.seeds if seed is not None]
        runs += [self.prepare(replace(part, seed=seeds), observer) for part in parts[1:]]
        boxes = [_request(run).areas.areas[0].box for run in runs]
        notes = (*sources.notes, f"the mask has {len(runs)} separate parts: each is worked on by itself")
        for note in notes:
            _log.warning(note)

        def put_results_together(results: list[Any]) -> InpaintOutput:
            images = put_together(results, boxes, parts[0].output_type)
            describe_results(images, runs[0], self.bundle)
            reports = put_reports_together([_request(run).reports for run in runs], sources)
            more = [note for run in runs for note in run.notes if note not in run.request.understood]
            seconds = add_up(run.clock.seconds for run in runs)
            all_notes = dict.fromkeys([*notes, *more, *map(str, reports)])
            return InpaintOutput(images, runs[0].noise.seeds, tuple(all_notes), seconds, reports)

        return Work(tuple(runs), put_results_together)


def _request(run: Run) -> InpaintRequest:
    return cast(InpaintRequest, run.request)


def _by_name(inputs: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The options with prompt, picture and mask, which may have been given by position.

    Raises:
        UsageError: something is given twice, or too much by position.
    """
    if len(inputs) == 3:
        order: tuple[str, ...] = ("prompt", "image", "mask_image")
    elif len(inputs) == 1 and options.get("image") is not None:
        order = ("prompt",)
    else:
        order = ("image", "mask_image")
    if len(inputs) > 3 or any(options.get(name) is not None for name in order[: len(inputs)]):
        raise UsageError(
            f"got {len(inputs)} inputs by position and the same ones by name; give prompt, image and mask_image once"
        )
    return options | dict(zip(order, inputs, strict=False))

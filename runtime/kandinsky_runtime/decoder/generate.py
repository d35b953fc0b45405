"""Text-to-image and image-to-image: a prompt or embeddings, and perhaps a picture, become a new picture."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from kandinsky_runtime.bundle.manifest import IMAGE_TO_IMAGE, TEXT_TO_IMAGE
from kandinsky_runtime.decoder.declarations import call_signature
from kandinsky_runtime.decoder.generate_inputs import prepare_generate
from kandinsky_runtime.decoder.options import GenerateOptions
from kandinsky_runtime.decoder.output import GenerateOutput
from kandinsky_runtime.decoder.pipeline import DecoderPipeline
from kandinsky_runtime.decoder.recipe import describe_results
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.decoder.work import Work
from kandinsky_runtime.observers import RunObserver, StepCallback
from kandinsky_runtime.units import do_all


class GeneratePipeline(DecoderPipeline):
    """A bundle of a plain decoder with an engine, ready to make pictures; also a context manager, and safe to share
    between threads.

    Make one with `GeneratePipeline.load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    tasks: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)

    def __call__(
        self,
        prompt: Any = None,
        *,
        callback_on_step_end: StepCallback | None = None,
        cancel: threading.Event | None = None,
        progress: bool = False,
        **options: Any,
    ) -> GenerateOutput:
        """Make a picture from a prompt, or change one.

        Args:
            prompt: see `GenerateOptions`.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step, with a copy of
                the latents; it may change them or return {"latents": …} to go on with.
            cancel: an event that stops the run between two steps.
            progress: whether to show a bar of the steps on stderr.
            options: see `GenerateOptions`.

        Returns:
            Pictures, seeds, notes and times.

        Raises:
            InputError: an input that cannot be used.
            UsageError: an option with an invalid value, or something that the bundle cannot do.
            EngineError, NonFiniteError: a graph could not be loaded or run, or returned no finite numbers.
            Cancelled: `cancel` was set.
        """
        observer = RunObserver(callback_on_step_end, cancel, progress, GenerateOptions.title)
        return self.run(GenerateOptions(prompt=prompt, **options), observer)

    __call__.__signature__ = call_signature(  # type: ignore[attr-defined]
        GenerateOptions, {"callback_on_step_end": None, "cancel": None, "progress": False}, by_position="prompt"
    )

    def run(self, options: GenerateOptions, observer: RunObserver | None = None) -> GenerateOutput:
        """Make or change a picture, from an options object; results and errors are those of a call."""
        return do_all(self.plan(options, observer).units())

    def plan(self, options: GenerateOptions, observer: RunObserver | None = None) -> Work[GenerateOutput]:
        """Check everything that a call does, before any graph runs; the work may be done in units."""
        run = self.prepare(options, observer)

        def put_together(results: list[Any]) -> GenerateOutput:
            describe_results(results[0], run, self.bundle)
            return GenerateOutput(
                results[0], run.noise.seeds, run.notes, run.clock.seconds, failures=tuple(run.failures)
            )

        return Work((run,), put_together)

    def prepare(self, options: GenerateOptions, observer: RunObserver | None = None) -> Run:
        """Check everything, before any graph runs; the run may be driven step by step, see `Run`."""
        self.bundle.require(TEXT_TO_IMAGE if options.image is None else IMAGE_TO_IMAGE)
        return self._prepared(options, observer or RunObserver(title=options.title), prepare_generate)

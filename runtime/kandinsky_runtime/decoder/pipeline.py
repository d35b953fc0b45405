"""What every pipeline of the decoder shares: bundle, engine, and the checks that turn options into a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import ClassVar, TypeVar

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import COMPONENTS
from kandinsky_runtime.checks import flag
from kandinsky_runtime.decoder.options import DecoderOptions
from kandinsky_runtime.decoder.request import Request
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.decoder.tiles import Tiling
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.registry import AUTO, Selection
from kandinsky_runtime.errors import BundleError, UsageError
from kandinsky_runtime.observers import RunObserver
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.sampling import guidance, schedulers
from kandinsky_runtime.sampling.noise import RunNoise

Self = TypeVar("Self", bound="DecoderPipeline")
Options = TypeVar("Options", bound=DecoderOptions)
Prepare = Callable[[Geometry, Options, int], Request]
"""(geometry, options, number of prompts) → checked request"""


@dataclass(eq=False)
class DecoderPipeline:
    """A bundle with an engine, ready to run; also a context manager, and safe to share between threads.

    Make one with `load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    graphs: Graphs
    geometry: Geometry
    prior: PriorPipeline
    tiling: Tiling | None = None

    tasks: ClassVar[tuple[str, ...]]
    """The pipeline's tasks, of `manifest.TASKS`; a bundle must have one of them."""

    @classmethod
    def load(
        cls: type[Self],
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str | None = None,
        threads: int | None = None,
        *,
        low_memory: bool = False,
        shape_memory: int | str | None = None,
        trust_bundle: bool = False,
        tiles: bool = False,
        progress: bool = False,
    ) -> Self:
        """Open a bundle and choose the engine.

        Args:
            bundle: the bundle's folder, or an opened bundle.
            engine: the engine's name, or "auto" for the first engine that can run the bundle here.
            precision: "fp32", "fp16", "bf16", or None for the engine's default.
            device: the engine's name for the device; None for the engine's default.
            threads: threads within one operation; None for all cores, or those that the container may use.
            low_memory: whether to keep only one graph in memory. Each run loads a graph when its phase begins and
                releases it at its end. Runs take longer, and follow one another. The halves of guidance run one after
                the other.
            shape_memory: the memory that compiled shapes of all graphs of the process may take together, in bytes or
                as a text such as "2G"; None for a share of the free memory. Each graph keeps at least its last shape.
                For engine openvino.
            trust_bundle: whether the content of the bundle's files is used unchecked; see `Bundle.open`.
            tiles: whether MoVQ works on pictures of more than 512 px in overlapping tiles. This takes less memory, and
                the result differs from diffusers'.
            progress: whether to show a bar while the files are checked for the first time.

        Raises:
            BundleError: the bundle is damaged; lists every fault.
            UsageError: no such engine, precision or device, or a bundle for other tasks.
            EngineUnavailable: the engine is not installed or cannot run this bundle.
        """
        opened = Bundle.of(bundle, trust=trust_bundle)
        geometry = Geometry.of(opened.manifest, opened.subject)
        if not set(cls.tasks) & set(opened.manifest.tasks):
            raise opened.cannot(cls.tasks[0])
        if not set(cls.tasks) <= set(geometry.tasks):
            raise BundleError(
                opened.subject, [f"its manifest says {cls.tasks[0]}; its UNet is made for {', '.join(geometry.tasks)}"]
            )
        graphs = Graphs.open(
            opened, engine, precision, device, threads,
            components=COMPONENTS, check=COMPONENTS, low_memory=low_memory, shape_memory=shape_memory,
            progress=progress,
        )  # fmt: skip
        return cls(graphs, geometry, PriorPipeline(graphs), Tiling.of(geometry) if flag("tiles", tiles) else None)

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self.graphs.bundle

    @property
    def selection(self) -> Selection:
        """The engine, and the variant of the bundle that it runs."""
        return self.graphs.selection

    @property
    def options(self) -> EngineOptions:
        """Device, threads and precision."""
        return self.graphs.options

    def engine(self, component: str) -> Engine:
        """The loaded graph of a component.

        Raises:
            BundleError: the bundle has no such component.
            EngineError: it could not be loaded.
        """
        return self.graphs.engine(component)

    def close(self) -> None:
        """Release every loaded graph; the next run loads them again.

        With calls in progress, return at once: the last of them releases the graphs at its end. A run that is driven
        with `begin` and `finish` is not waited for: its next step fails.
        """
        self.graphs.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _prepared(self, options: Options, observer: RunObserver, prepare: Prepare[Options]) -> Run:
        """Check a run's options and inputs, before any graph runs.

        Args:
            options: the run's options.
            observer: progress, callback and cancellation.
            prepare: the task's function that makes a request of options.

        Raises:
            InputError: an input that cannot be used.
            UsageError: an option with an invalid value, or something that the bundle cannot do.
        """
        scheduler = self._scheduler(options.scheduler)
        plan = None
        if options.prompt is not None:
            plan = self.prior.plan(
                options.prompt,
                options.negative_prompt,
                options.prior_num_inference_steps,
                options.prior_guidance_scale,
                options.max_pixels,
            )
        elif options.negative_image_embeds is None and self.bundle.manifest.prior is not None:
            options = replace(options, negative_image_embeds=self.prior.negative_image_embeds)
        request = prepare(self.geometry, options, 0 if plan is None else len(plan.prompts))
        sampler = scheduler.sampler(options.num_inference_steps, request.latent_shape, first=request.first_step)
        interval = guidance.Interval.checked(options.guidance_interval, options.guidance_scale)
        if interval is not None:
            interval.check_steps([sampler.sigma(i) for i in range(sampler.first, len(sampler.timesteps))])
        noise = RunNoise(options.noise, request.seeds, recorded=options.record_noise is not None)
        return Run(
            self.graphs, self.prior, self.tiling, options, request, plan, sampler, interval, noise, observer, self
        )

    def _scheduler(self, name: str | None) -> schedulers.Scheduler:
        """The scheduler called `name`, or the checkpoint's own.

        Raises:
            UsageError: the UNet lacks the variance that the scheduler needs.
        """
        scheduler = schedulers.load(self.bundle.manifest.scheduler, name)
        if scheduler.predicts_variance and self.geometry.out_channels == self.geometry.channels:
            raise UsageError(
                f"the scheduler config learns its variance; this UNet's {self.geometry.out_channels} output channels"
                " carry none: choose another scheduler"
            )
        return scheduler

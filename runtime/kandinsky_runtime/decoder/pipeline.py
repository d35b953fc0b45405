"""What every pipeline of the decoder shares: bundle and engine, prompts or embeddings, noise, and the UNet's loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, TypeVar

import numpy.typing as npt

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.bundle.manifest import COMPONENTS
from kandinsky_runtime.checks import flag
from kandinsky_runtime.decoder.request import SampleRequest
from kandinsky_runtime.decoder.tiles import Tiling
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.engines.registry import AUTO, Selection
from kandinsky_runtime.errors import BundleError, InputError, Kandinsky22Error, UsageError
from kandinsky_runtime.observers import Clock, Watch
from kandinsky_runtime.prior.pipeline import PriorPipeline
from kandinsky_runtime.prior.plan import Plan
from kandinsky_runtime.sampling import schedulers
from kandinsky_runtime.sampling.noise import RunNoise

Self = TypeVar("Self", bound="DecoderPipeline")
Checked = TypeVar("Checked", bound=SampleRequest)


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
    """Of `manifest.TASKS`, what the pipeline does; a bundle has to be able to do one of them."""

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
        tiles: bool = False,
        progress: bool = False,
    ) -> Self:
        """Open a bundle and choose the engine.

        Args:
            bundle: the bundle's folder.
            engine: "onnxruntime", "paddle", another package's, or "auto" for the first that can run the bundle here.
            precision: "fp32", "fp16", "bf16", or None for the engine's default.
            device: as the engine names it; None for the engine's own.
            threads: threads within one operation, None for all cores.
            low_memory: have one graph loaded at a time: each run loads it when its phase begins and releases it at its
                end, so that runs take longer, and follow one another. The halves of guidance run one after the other.
            tiles: take pictures of more than 512 px through MoVQ in overlapping tiles: less memory, and a result
                that differs from the reference's.
            progress: show a bar while the files' content is checked for the first time.

        Raises:
            BundleError: the bundle is damaged; lists every fault.
            UsageError: no such engine, precision or device, or the bundle is made for other tasks.
            EngineUnavailable: the engine is not installed or cannot run this bundle.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        geometry = Geometry.of(opened.manifest, opened.subject)
        if not set(cls.tasks) & set(opened.manifest.tasks):
            raise opened.cannot(cls.tasks[0])
        if not set(cls.tasks) <= set(geometry.tasks):
            raise BundleError(
                opened.subject, [f"its manifest says {cls.tasks[0]}; its UNet is made for {', '.join(geometry.tasks)}"]
            )
        graphs = Graphs.open(
            opened, engine, precision, device, threads, check=COMPONENTS, low_memory=low_memory, progress=progress
        )
        return cls(graphs, geometry, PriorPipeline(graphs), Tiling.of(geometry) if flag("tiles", tiles) else None)

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self.graphs.bundle

    @property
    def selection(self) -> Selection:
        """The engine, and what it runs of the bundle."""
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
        """Release every loaded graph, after a run in progress; the next run loads them again."""
        self.graphs.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _method(self, name: str | None) -> schedulers.Scheduler:
        """The scheduler called `name`, or the checkpoint's own, where the UNet has what it needs."""
        method = schedulers.load(self.bundle.manifest.scheduler, name)
        if method.predicts_variance and self.geometry.out_channels == self.geometry.channels:
            raise UsageError(
                f"the scheduler config learns its variance; this UNet's {self.geometry.out_channels} output channels"
                " carry none: choose another scheduler"
            )
        return method

    def _conditions(
        self,
        prompt: Any,
        negative_prompt: str | Sequence[str] | None,
        image_embeds: npt.ArrayLike | None,
        negative_image_embeds: npt.ArrayLike | None,
        prior_num_inference_steps: int | None,
        prior_guidance_scale: float | None,
    ) -> tuple[Plan | None, npt.ArrayLike | None, npt.ArrayLike | None]:
        """The plan of a prompt, or embeddings; those of no picture are the bundle's where none are given.

        Raises:
            InputError, UsageError: neither is given, both are, or what is given cannot be used.
        """
        if prompt is None:
            if image_embeds is None:
                raise InputError("there is no prompt and no image_embeds; give one of them")
            if negative_prompt is not None:
                raise UsageError("negative_prompt goes with a prompt; give negative_image_embeds with image_embeds")
            if prior_num_inference_steps is not None or prior_guidance_scale is not None:
                raise UsageError("prior_num_inference_steps and prior_guidance_scale go with a prompt; leave them out")
            if negative_image_embeds is None and self.bundle.manifest.prior is not None:
                negative_image_embeds = self.prior.negative_image_embeds
            return None, image_embeds, negative_image_embeds
        if image_embeds is not None or negative_image_embeds is not None:
            raise UsageError("a prompt takes the place of image_embeds and negative_image_embeds; give one of the two")
        plan = self.prior.plan(prompt, negative_prompt, prior_num_inference_steps, prior_guidance_scale)
        return plan, None, None

    def _embedded(
        self, request: Checked, plan: Plan | None, repeats: int, noise: RunNoise, watch: Watch, clock: Clock
    ) -> Checked:
        """The request with the embeddings that the prior makes of a prompt, if there is one."""
        if plan is None:
            return request
        samples = plan.shared_out(request.batch // repeats, repeats)
        onlooker = Watch(None, watch.cancel, watch.progress, "prior")
        positive, negative = self.prior.embed(plan, samples, noise.samples, onlooker, clock)
        return replace(request, image_embeds=positive, negative_image_embeds=negative)


def check_recording_path(path: str | os.PathLike[str] | None) -> None:
    """Raise UsageError if the noise could not be recorded to `path`; None is not to record."""
    if path is None:
        return
    if isinstance(path, (str, os.PathLike)):
        folder = Path(path).parent
        if folder.is_dir() and os.access(folder, os.W_OK) and not Path(path).is_dir():
            return
    raise UsageError(f"record_noise is {path!r}; expected the path of a file in a folder that can be written to")


def save_recording(noise: RunNoise, path: str | os.PathLike[str] | None) -> None:
    """Write what was drawn, if it is to be recorded.

    Raises:
        Kandinsky22Error: it cannot be written.
    """
    if noise.recording is None or path is None:
        return
    try:
        noise.recording.save(Path(path))
    except OSError as error:
        raise Kandinsky22Error(f"the noise recording {path} cannot be written: {error.strerror}") from error

"""One case run with one setting.

Legend: C latent channels · h, w latent height and width · H, W height and width of the result in pixels
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_export.comparison.cases import Case
from kandinsky_export.comparison.settings import Setting
from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import INPAINT
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.inpaint_inputs import InpaintRequest
from kandinsky_runtime.decoder.options import GenerateOptions, InpaintOptions
from kandinsky_runtime.decoder.run import Run
from kandinsky_runtime.observers import RunObserver
from kandinsky_runtime.units import do_all

Array = npt.NDArray[np.float32]
Pipeline = InpaintPipeline | GeneratePipeline
OpenPipeline = Callable[[Bundle, Setting], Pipeline]


@dataclass(frozen=True)
class Outcome:
    """What a run returned.

    Attributes:
        latents: (1, C, h, w) after each step.
        cells: (1, 1, h, w), the latent cells that are generated; None for all.
        picture: (H, W, 3) in [0, 1] as the decoder made it: nothing is pasted.
        seconds: the time of the run, without that of loading graphs.
    """

    latents: tuple[Array, ...]
    cells: npt.NDArray[np.bool_] | None
    picture: Array
    seconds: float


def open_pipeline(bundle: Bundle, setting: Setting) -> Pipeline:
    """The pipeline for what the bundle does, on the setting's engine; errors are those of its `load`."""
    if INPAINT in bundle.manifest.tasks:
        return InpaintPipeline.load(bundle, **setting.loading)
    return GeneratePipeline.load(bundle, **setting.loading)


def prepared(pipeline: Pipeline, setting: Setting, case: Case, observer: RunObserver | None = None) -> Run:
    """A run whose inputs and options are checked, before any graph runs.

    Raises:
        InputError, UsageError: an input or an option cannot be used.
    """
    options = dict(case.conditioning) | dict(case.pictures.options) | dict(setting.sampling)
    options |= {"seed": case.seed, "output_type": "np"}
    if isinstance(pipeline, InpaintPipeline):
        return pipeline.prepare(InpaintOptions(**options), observer)
    return pipeline.prepare(GenerateOptions(**options), observer)


def step_count(run: Run) -> int:
    """The number of steps that a run takes."""
    return len(run.sampler.timesteps) - run.sampler.first


def run_case(
    pipeline: Pipeline, setting: Setting, case: Case, after_step: Callable[[], object] = lambda: None
) -> Outcome:
    """Run one case.

    Args:
        pipeline: what `open_pipeline` returned for the setting.
        setting: the options of the run.
        case: prompt, seed and pictures.
        after_step: called after each step.

    Raises:
        EngineError, NonFiniteError: a graph could not be loaded or run, or returned no finite numbers.
        InputError, UsageError: an input or an option cannot be used.
    """
    latents: list[Array] = []

    def keep(_: object, __: int, ___: float, values: dict[str, Array]) -> None:
        latents.append(values["latents"].copy())
        after_step()

    start = time.perf_counter()
    run = prepared(pipeline, setting, case, RunObserver(keep))
    images = np.asarray(do_all(run.units()))
    seconds = time.perf_counter() - start - run.clock.seconds.get("load", 0.0)
    cells = run.request.keep == 0 if isinstance(run.request, InpaintRequest) else None
    return Outcome(tuple(latents), cells, images[0], seconds)

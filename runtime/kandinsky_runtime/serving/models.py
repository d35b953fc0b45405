"""The models that a server has: bundles by name, each with its pipeline."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kandinsky_runtime.bundle.bundle import Bundle
from kandinsky_runtime.bundle.manifest import INPAINT, TEXT_TO_IMAGE
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.options import GenerateOptions, InpaintOptions
from kandinsky_runtime.decoder.run import StepUnit
from kandinsky_runtime.decoder.unet import predict_together
from kandinsky_runtime.decoder.work import Work
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.serving.estimates import Estimates
from kandinsky_runtime.units import Unit, do_all

_SHARED = (2, 4, 8)  # numbers of requests that may share a step on a GPU
_PAYS = 0.95  # sharing pays if a step of one request takes at most this share of its time alone
_ROUNDS = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A bundle that the server has.

    Attributes:
        name: the name that requests give.
        task: "inpaint" or "text-to-image".
        pipeline: the bundle with its engine.
        created: the time of its manifest, in seconds since 1970.
    """

    name: str
    task: str
    pipeline: InpaintPipeline | GeneratePipeline
    created: int

    @property
    def alone(self) -> bool:
        """Whether there is memory for one request at a time only."""
        return self.pipeline.graphs.low_memory

    def plan(self, options: Any) -> Work[Any]:
        """Check a request's options and inputs; see the pipelines' `plan`."""
        return self.pipeline.plan(options)

    def warm_up_options(self, width: int, height: int, steps: int = 2) -> Any:
        """The options of a run on an empty picture."""
        common: dict[str, Any] = {
            "height": height,
            "width": width,
            "num_inference_steps": steps,
            "seed": 0,
            "prompt": "a",
        }
        if self.task == INPAINT:
            picture = np.zeros((height, width, 3), np.uint8)
            mask = np.full((height, width), 255, np.uint8)
            return InpaintOptions(image=picture, mask_image=mask, **common)
        return GenerateOptions(**common)


@dataclass
class Models:
    """All models, by name; the first one of a task is its default.

    Attributes:
        by_name: the models.
        ready: whether all of them are warm.
        share_steps: the number of requests that may share a step, by model.
    """

    by_name: dict[str, Model]
    ready: bool = False
    share_steps: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, bundles: Sequence[str], **options: Any) -> Models:
        """Open bundles.

        Args:
            bundles: paths, or NAME=PATH; a path's name is that of its folder.
            options: see `InpaintPipeline.load`.

        Raises:
            UsageError: two bundles have one name, or a bundle has no prior.
            BundleError, EngineUnavailable: see `InpaintPipeline.load`.
        """
        named = named_bundles(bundles)
        return cls({name: _open(name, folder, **options) for name, folder in named.items()})

    def of_task(self, task: str) -> list[Model]:
        """The models that can do a task."""
        return [model for model in self.by_name.values() if model.task == task]

    def warm_up(self, sizes: Sequence[tuple[int, int]], estimates: Estimates, share_steps: int | str) -> None:
        """Run every model at every size (width, height), learn its times, and choose how many may share a step.

        Errors are those of a run.
        """
        for model in self.by_name.values():
            for width, height in sizes:
                begun = time.monotonic()
                options = model.warm_up_options(width, height)
                do_all(model.plan(options).units())  # graphs are loaded and compiled: nothing is learned from it
                _learn(model, model.plan(options), estimates)
                _log.info("warmed up %s at %dx%d in %.1f s", model.name, width, height, time.monotonic() - begun)
            self.share_steps[model.name] = self._shared(model, sizes[0], share_steps)
        self.ready = True

    def _shared(self, model: Model, size: tuple[int, int], share_steps: int | str) -> int:
        if model.alone:
            return 1
        if isinstance(share_steps, int):
            return share_steps
        if model.pipeline.selection.device.partition(".")[0] == "cpu":
            return 1
        chosen = measured_sharing(model, *size)
        _log.info("%s: up to %d requests share a step", model.name, chosen)
        return chosen

    def close(self) -> None:
        """Release all graphs."""
        for model in self.by_name.values():
            model.pipeline.close()


def measured_sharing(model: Model, width: int, height: int) -> int:
    """The number of requests whose shared step takes each the least time, by measuring; 1 if sharing does not pay."""
    chosen, best = 1, _step_seconds(model, width, height, 1)
    for count in _SHARED:
        seconds = _step_seconds(model, width, height, count)
        if seconds > _PAYS * best:
            break
        chosen, best = count, seconds
    return chosen


def _step_seconds(model: Model, width: int, height: int, count: int) -> float:
    """The least seconds of a step that `count` requests share, for each of them."""
    all_units = [model.plan(model.warm_up_options(width, height)).units() for _ in range(count)]
    steps = []
    for units in all_units:
        unit = next(units)
        while not isinstance(unit, StepUnit):
            unit = next(units)
        steps.append((unit.run.unet, unit.step.latents, unit.step.timestep, unit.step.guided))
    times = []
    for _ in range(_ROUNDS):
        begun = time.monotonic()
        predict_together(steps)
        times.append(time.monotonic() - begun)
    for units in all_units:
        units.close()
    return min(times) / count


def _learn(model: Model, work: Work[Any], estimates: Estimates) -> None:
    """Do all of a call's work, and learn its times."""
    units = work.units()
    unit: Unit | None = next(units)
    while unit is not None:
        begun = time.monotonic()
        following = next(units, None)
        estimates.learn(model.name, unit.phase, unit.size, time.monotonic() - begun)
        unit = following


def _is_path_part(name: str) -> bool:
    """Whether a name can be one part of an address's path."""
    return name not in ("", ".", "..") and "/" not in name and name.isprintable()


def named_bundles(texts: Sequence[str]) -> dict[str, Path]:
    """The folders of bundles by name.

    Args:
        texts: paths, or NAME=PATH; a path's name is that of its folder. What exists as a path is one, with its `=`.

    Raises:
        UsageError: two bundles have one name, or a name cannot be part of an address.
    """
    named: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            folder = Path(text)
            name = folder.resolve().name
        else:
            folder = Path(path)
        if not _is_path_part(name):
            raise UsageError(f"{name!r} cannot be a model's name; take one without /, such as inpaint={folder}")
        if name in named:
            raise UsageError(f"two bundles are called {name}; name them: one={folder} two=…")
        named[name] = folder
    return named


def served_task(bundle: Bundle) -> str:
    """The task that a server does with a bundle.

    Raises:
        UsageError: the bundle has no prior.
    """
    if bundle.manifest.prior is None:
        raise UsageError(
            f"bundle {bundle.root} has no prior, so it cannot read prompts; export it with k22-export bundle … --prior"
        )
    return INPAINT if INPAINT in bundle.manifest.tasks else TEXT_TO_IMAGE


def _open(name: str, folder: Path, **engine: Any) -> Model:
    bundle = Bundle.open(folder)
    task = served_task(bundle)
    pipeline = (InpaintPipeline if task == INPAINT else GeneratePipeline).load(bundle, **engine)
    return Model(name, task, pipeline, int((folder / "manifest.json").stat().st_mtime))

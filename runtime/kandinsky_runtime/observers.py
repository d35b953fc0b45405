"""The observers of a run: clock, progress bar, callback, and cancellation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.checks import flag
from kandinsky_runtime.errors import Cancelled, UsageError
from kandinsky_runtime.progress import ProgressBar

Array = npt.NDArray[np.float32]
# (pipeline, step, timestep, {"latents": …}) → None, or {"latents": …} to go on with
StepCallback = Callable[[Any, int, float, dict[str, Array]], Mapping[str, npt.ArrayLike] | None]


class Clock:
    """Adds up the seconds spent in named parts; one part may contain another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time what happens within the `with` statement."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def add_up(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The seconds that several runs spent in each part, together."""
    total: dict[str, float] = {}
    for seconds in runs:
        for part, value in seconds.items():
            total[part] = total.get(part, 0.0) + value
    return total


@dataclass(frozen=True)
class RunObserver:
    """The observers of one run.

    Attributes:
        callback: called as (pipeline, step, timestep, {"latents": …}) after each step, with a copy of the latents. It
            may change them, or return {"latents": …} to go on with.
        cancel: an event that stops the run between two steps.
        progress: whether to show a bar of the steps on stderr.
        title: the bar's name.

    Raises:
        UsageError: a value of another type.
    """

    callback: StepCallback | None = None
    cancel: threading.Event | None = None
    progress: bool = False
    title: str = "denoising"

    def __post_init__(self) -> None:
        if self.callback is not None and not callable(self.callback):
            raise UsageError(f"callback_on_step_end is {self.callback!r}; expected a function")
        if self.cancel is not None and not isinstance(self.cancel, threading.Event):
            raise UsageError(f"cancel is {self.cancel!r}; expected a threading.Event")
        flag("progress", self.progress)

    def bar(self, steps: int) -> ProgressBar:
        """A progress bar of so many steps; hidden without `progress`."""
        return ProgressBar(total=steps, desc=self.title, unit="step", disable=not self.progress)

    def check_cancelled(self, step: int, steps: int) -> None:
        """Raise Cancelled if the event was set before step `step`, from 0, of `steps`."""
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled(f"cancelled before step {step + 1} of {steps}")

    def steps(self, timesteps: Sequence[float]) -> Iterator[tuple[int, float]]:
        """Every step's number, from 0, and timestep, under a progress bar.

        Raises:
            Cancelled: the event was set before the step.
        """
        with self.bar(len(timesteps)) as bar:
            for step, timestep in enumerate(timesteps):
                self.check_cancelled(step, len(timesteps))
                yield step, timestep
                bar.update()

    def after_step(self, pipeline: object, step: int, timestep: float, latents: Array) -> npt.ArrayLike:
        """The latents to go on with, unchecked: those given, or the callback's version of a copy of them.

        Raises:
            UsageError: the callback returned something else than None or a mapping, or raised StopIteration.
        """
        if self.callback is None:
            return latents
        values = {"latents": latents.copy()}
        try:
            returned = self.callback(pipeline, step, timestep, values)
        except StopIteration as error:  # a generator, which a run is, cannot pass it on
            raise UsageError(
                "callback_on_step_end raised StopIteration, which does not stop a run; raise"
                " kandinsky_runtime.errors.Cancelled, or set the event of `cancel`"
            ) from error
        if returned is not None and not isinstance(returned, Mapping):
            raise UsageError(f"callback_on_step_end returned {returned!r}; expected None or a dict with `latents`")
        return (returned or {}).get("latents", values["latents"])

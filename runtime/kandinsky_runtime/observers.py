"""Who looks on while a run goes on: a clock, a progress bar, a callback, and an event that stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kandinsky_runtime.errors import Cancelled, UsageError

Array = npt.NDArray[np.float32]
# (pipeline, step, timestep, {"latents": …}) → None, or {"latents": …} to go on with
StepCallback = Callable[[Any, int, float, dict[str, Array]], Mapping[str, npt.ArrayLike] | None]


class Clock:
    """Adds up the seconds spent in named parts, which may lie within one another."""

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


@dataclass(frozen=True)
class Watch:
    """The onlookers of one run.

    Raises:
        UsageError: one of them is not what its type says.
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

    def steps(self, timesteps: Sequence[float], first: int = 0) -> Iterator[tuple[int, float]]:
        """Every step's number, from `first`, and timestep, under a progress bar.

        Raises:
            Cancelled: the event was set before the step.
        """
        bar = tqdm(timesteps[first:], desc=self.title, unit="step", disable=not self.progress)
        for step, timestep in enumerate(bar, first):
            if self.cancel is not None and self.cancel.is_set():
                raise Cancelled(f"cancelled before step {step + 1} of {len(timesteps)}")
            yield step, timestep

    def after_step(self, pipeline: object, step: int, timestep: float, latents: Array) -> npt.ArrayLike:
        """The latents to go on with, unchecked: those given, or what the callback makes of a copy of them.

        Raises:
            UsageError: the callback returned something else than None or a mapping.
        """
        if self.callback is None:
            return latents
        values = {"latents": latents.copy()}
        returned = self.callback(pipeline, step, timestep, values)
        if returned is not None and not isinstance(returned, Mapping):
            raise UsageError(f"callback_on_step_end returned {returned!r}; expected None or a dict with `latents`")
        return (returned or {}).get("latents", values["latents"])

"""How long work takes on this machine, learned from the units that were done.

The time of a unit is the median of the latest ones of its model, phase and size. A size that was never seen is scaled
from the nearest one that was.
"""

from __future__ import annotations

import math
import statistics
import threading
from collections import deque
from collections.abc import Iterator

from kandinsky_runtime.decoder.run import Run

_LATEST = 9  # units that the median is of
_MOST_SIZES = 64  # of a model and phase; clients choose sizes, and there is no end of them


class Estimates:
    """The seconds of units by model, phase and size; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[tuple[str, str], dict[int, deque[float]]] = {}

    def learn(self, model: str, phase: str, size: int, seconds: float) -> None:
        """Take the time of a unit that was done."""
        with self._lock:
            known = self._seconds.setdefault((model, phase), {})
            times = known.pop(size, None) or deque(maxlen=_LATEST)
            times.append(seconds)
            known[size] = times  # the last one learned is at the end
            if len(known) > _MOST_SIZES:
                del known[next(iter(known))]

    def unit(self, model: str, phase: str, size: int) -> float:
        """The seconds that a unit will take; 0 if none of its model and phase was ever done."""
        with self._lock:
            known = self._seconds.get((model, phase))
            if not known:
                return 0.0
            nearest = min(known, key=lambda other: abs(math.log(other / size)))
            return statistics.median(known[nearest]) * size / nearest

    def run(self, model: str, run: Run) -> float:
        """The seconds that a run will take."""
        return sum(self.unit(model, phase, size) * count for phase, size, count in _units_of(run))


def step_size(run: Run) -> int:
    """The size of a run's steps, see `Unit`."""
    return math.prod(run.request.latent_shape) * (2 if run.guided else 1)


def _units_of(run: Run) -> Iterator[tuple[str, int, int]]:
    """(phase, size, number) of the units of a run."""
    request = run.request
    if request.keeps_everything:
        return
    if run.plan is not None:
        yield "encode_text", max(1, len(run.plan.rows)), 1
        yield "prior", request.batch, run.plan.steps
    if len(request.pixels):
        yield "encode", request.pixels[0].size, len(request.pixels)
    yield "denoise", step_size(run), run.steps
    if run.options.output_type != "latent":
        yield "decode", math.prod(request.latent_shape[1:]), request.batch

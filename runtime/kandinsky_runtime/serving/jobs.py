"""Jobs: requests on their way through the step loop, and their results for a while.

A job lives in two threads. The step loop's thread calls the methods of `Task`, which touch only what is marked so;
everything else happens in the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from PIL import Image

from kandinsky_runtime.decoder.output import PipelineOutput
from kandinsky_runtime.decoder.run import StepUnit
from kandinsky_runtime.decoder.work import Work
from kandinsky_runtime.errors import Cancelled, Kandinsky22Error
from kandinsky_runtime.pictures.saving import encode_image, longest_side
from kandinsky_runtime.serving.estimates import Estimates, step_size
from kandinsky_runtime.serving.models import Model
from kandinsky_runtime.serving.previews import preview_steps, with_previews
from kandinsky_runtime.units import Unit, Units

QUEUED, RUNNING, COMPLETED, FAILED, CANCELLED = "queued", "running", "completed", "failed", "cancelled"
ENDED = (COMPLETED, FAILED, CANCELLED)
SHUTDOWN = "shutdown"

_log = logging.getLogger(__name__)
_REPLICA_ID = re.compile(r"job_([A-Za-z0-9]+)\.")


class ServerStopped(Kandinsky22Error):
    """The server stopped before the work was done; another one may do it."""

    def __init__(self) -> None:
        super().__init__("the server stopped before the work was done; try another one, or try again")


def new_id(replica: str = "") -> str:
    """The id of a new job.

    Args:
        replica: the name of the replica that has it, letters and digits; empty for the only one.
    """
    return f"job_{replica and f'{replica}.'}{secrets.token_urlsafe(15)}"


def replica_of(job: str) -> str:
    """The name of the replica that has a job, by the job's id; empty for the only one, and for what is no such id."""
    found = _REPLICA_ID.match(job)
    return "" if found is None else found.group(1)


@dataclass(frozen=True)
class Format:
    """How results are sent.

    Attributes:
        name: "png", "jpeg" or "webp".
        quality: 1 to 100 for JPEG and WebP; None for the default.
    """

    name: str = "png"
    quality: int | None = None

    @property
    def largest_side(self) -> int | None:
        """The most pixels of a picture's side; None if it needs no limit."""
        return longest_side(f".{self.name}")

    def encode(self, image: Image.Image) -> bytes:
        """The bytes of a picture's file."""
        return encode_image(image, f".{self.name}", self.quality)


@dataclass
class PhaseTimes:
    """The time of a phase, from its first unit to its last, in nanoseconds since 1970; and the number of its units."""

    begun: int
    ended: int
    units: int = 0


@dataclass(eq=False)
class Job:
    """One request's work.

    Attributes:
        model: the model that does it.
        work: the checked work; None once it has ended, so that its memory is freed.
        steps: the decoder's steps.
        estimated: the seconds of work that it will take.
        estimates: the times that units take.
        workers: the threads that encode its pictures.
        format: how results are sent.
        previews: the number of pictures on the way.
        owner: who may see it, see `security`.
        time_limit: seconds after which it is given up.
        on_unit: called after each unit, in the step loop's thread.
        id, created: its name, and the time of its creation in seconds since 1970.
        state: one of QUEUED, RUNNING, and those of ENDED.
        size: width and height of the results in pixels, once there is a picture.
        steps_done: the steps that are done.
        images: the files of the results.
        shown: the files of the previews so far.
        output: the result without its pictures.
        error: why it failed or was cancelled.
        cancelled_by: a word for who cancelled it: "client", "disconnect" or `SHUTDOWN`; None for its time limit.
        phases: the time of each phase, the first is `queue`.
        seconds: seconds spent waiting (`queue`), being worked on (`run`), and in all (`total`).
    """

    model: Model
    work: Work[Any] | None
    steps: int
    estimated: float
    estimates: Estimates
    workers: Executor
    format: Format = field(default_factory=Format)
    previews: int = 0
    owner: str = ""
    time_limit: float = 3600.0
    on_unit: Callable[[Job, Unit, float], None] | None = None
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    state: str = QUEUED
    size: tuple[int, int] = (0, 0)
    steps_done: int = 0
    images: list[bytes] = field(default_factory=list)
    shown: list[bytes] = field(default_factory=list)
    output: PipelineOutput | None = None
    error: BaseException | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    cancelled_by: str | None = None
    phases: dict[str, PhaseTimes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._arrived = time.monotonic()
        self._begun: float | None = None
        self._wish: str | None = None
        self._left = self.estimated

    # The step loop's side: `Task`

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def alone(self) -> bool:
        """See `Model.alone`."""
        return self.model.alone

    @property
    def stopped(self) -> str | None:
        """Why the job is to stop, or None."""
        if self._wish is None and time.monotonic() - self._arrived > self.time_limit:
            self._wish = f"the time limit of {self.time_limit:g} s has passed"
        return self._wish

    def begin(self) -> Units[Any]:
        """The work, with its previews.

        Raises:
            Kandinsky22Error: the job has ended.
        """
        work = self.work
        if work is None:
            raise Kandinsky22Error(f"job {self.id} has ended; it cannot begin again")
        self._begun = time.monotonic()
        self.phases["queue"] = PhaseTimes(int(self.created * 1e9), time.time_ns())
        self._loop.call_soon_threadsafe(self._set_running)
        units = work.units()
        return with_previews(units, preview_steps(self.previews, self.steps), self._show) if self.previews else units

    def remaining(self) -> float:
        """The estimated seconds of work that are left."""
        return self._left

    def did(self, unit: Unit, seconds: float) -> None:
        """Count a unit."""
        now = time.time_ns()
        times = self.phases.setdefault(unit.phase, PhaseTimes(now - int(seconds * 1e9), now))
        times.ended, times.units = now, times.units + 1
        estimate = self.estimates.unit(self.model.name, unit.phase, unit.size)
        self._left = max(0.0, self._left - estimate)
        if isinstance(unit, StepUnit):
            steps_left = self.steps - self.steps_done - 1
            self._left = max(
                self._left, steps_left * self.estimates.unit(self.model.name, "denoise", step_size(unit.run))
            )
            self._loop.call_soon_threadsafe(self._count_step)
        if self.on_unit is not None:
            self.on_unit(self, unit, seconds)

    def done(self, result: Any) -> None:
        """Hand the result to the event loop's side."""
        self._loop.call_soon_threadsafe(self._finish, result)

    def failed(self, error: BaseException) -> None:
        """Hand the error to the event loop's side."""
        self._loop.call_soon_threadsafe(self._end, CANCELLED if isinstance(error, Cancelled) else FAILED, error)

    def _show(self, number: int, picture: Image.Image) -> None:
        self._loop.call_soon_threadsafe(self._encode_preview, picture)

    # The event loop's side

    def cancel(self, reason: str, by: str) -> None:
        """Ask the step loop to stop the job after its unit in progress; nothing happens if it has ended.

        Args:
            reason: a sentence for the client.
            by: a word for the metrics.
        """
        if self.state not in ENDED and self._wish is None:
            self._wish, self.cancelled_by = reason, by

    async def wait(self) -> None:
        """Wait until the job has ended."""
        await self._ended.wait()

    async def changes(self, every: float) -> AsyncIterator[bool]:
        """Whether something has changed: true after each change, false after each `every` seconds without one.

        The last turn is after the job's end.
        """
        while True:
            changed = self._changed
            yield True
            if self.state in ENDED:
                return
            while True:
                try:
                    await asyncio.wait_for(changed.wait(), every)
                    break
                except asyncio.TimeoutError:
                    yield False

    @property
    def interrupted(self) -> bool:
        """Whether the job was cancelled because the server stopped."""
        return self.state == CANCELLED and self.cancelled_by == SHUTDOWN

    @property
    def kept_bytes(self) -> int:
        """The bytes of pictures that are kept."""
        return sum(map(len, self.images)) + sum(map(len, self.shown))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _set_running(self) -> None:
        if self.state == QUEUED:
            self.state = RUNNING
            self._notify()

    def _count_step(self) -> None:
        self.steps_done += 1
        self._notify()

    def _encode_preview(self, picture: Image.Image) -> None:
        self.size = picture.size
        encoding = self._loop.run_in_executor(self.workers, partial(self.format.encode, picture))
        encoding.add_done_callback(self._add_preview)

    def _add_preview(self, encoded: asyncio.Future[bytes]) -> None:
        if self.state not in ENDED and encoded.exception() is None:
            self.shown.append(encoded.result())
            self._notify()

    def _finish(self, output: PipelineOutput) -> None:
        pictures, self.output = output.images, output
        self.size = pictures[0].size
        encoding = self._loop.run_in_executor(self.workers, partial(_encode_all, self.format, pictures))
        encoding.add_done_callback(self._take_results)

    def _take_results(self, encoded: asyncio.Future[list[bytes]]) -> None:
        error = encoded.exception()
        if error is not None:
            _log.error("results cannot be written as %s: %s", self.format.name, error, exc_info=error)
            self._end(FAILED, error)
            return
        self.images = encoded.result()
        self._end(COMPLETED, None)

    def _end(self, state: str, error: BaseException | None) -> None:
        now = time.monotonic()
        begun = now if self._begun is None else self._begun
        self.seconds = {"queue": begun - self._arrived, "run": now - begun, "total": now - self._arrived}
        self.state, self.error, self.work = state, error, None
        if self.interrupted:
            self.error = ServerStopped()
        if self.output is not None:
            self.output.images.clear()
        self._ended.set()
        self._notify()


def _encode_all(form: Format, pictures: list[Image.Image]) -> list[bytes]:
    return [form.encode(picture) for picture in pictures]

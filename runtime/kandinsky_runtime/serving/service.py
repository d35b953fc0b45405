"""The server without HTTP: models, step loop, admission and jobs, put together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from kandinsky_runtime.bundle.manifest import INPAINT, TEXT_TO_IMAGE
from kandinsky_runtime.decoder.options import GenerateOptions, InpaintOptions
from kandinsky_runtime.decoder.work import Work
from kandinsky_runtime.distribution import installed
from kandinsky_runtime.errors import Cancelled
from kandinsky_runtime.pictures.image import read_picture
from kandinsky_runtime.pictures.mask import understand_mask
from kandinsky_runtime.pictures.sizes import same_proportions
from kandinsky_runtime.serving.admission import Admission, Place
from kandinsky_runtime.serving.estimates import Estimates
from kandinsky_runtime.serving.fields import EDITS, Asked, FieldError, option_fields
from kandinsky_runtime.serving.jobs import QUEUED, RUNNING, SHUTDOWN, Format, Job, ServerStopped, new_id
from kandinsky_runtime.serving.journal import Journal
from kandinsky_runtime.serving.metrics import Metrics
from kandinsky_runtime.serving.models import Model, Models
from kandinsky_runtime.serving.settings import Settings
from kandinsky_runtime.serving.step_loop import StepLoop
from kandinsky_runtime.serving.store import Store

LAST_SECONDS = 5  # for answers that are being sent when all jobs have ended
_POLL_SECONDS = 0.02
_WORKERS = 2  # threads that decode uploads and encode results
_STUCK_SECONDS = 60.0  # a unit may always take this long ...
_STUCK_TIMES = 20.0  # ... or so many times its estimate

_log = logging.getLogger(__name__)


class Service:
    """Everything behind the HTTP interface; used from the event loop's thread.

    Attributes:
        settings, models, estimates, loop, admission, store, metrics: its parts.
        replica: its name, if it is one of several replicas of a server; each keeps its own jobs. Otherwise empty.
        on_detached: called with each job that goes on after its request is answered.
        failure: why the warm-up failed, or None.
        stopping: whether the jobs were cancelled because the server stops, and no request becomes one.
    """

    def __init__(self, settings: Settings, models: Models, replica: str = "") -> None:
        self.settings, self.models, self.replica = settings, models, replica
        self.on_detached: Callable[[Job], None] = lambda job: None
        self.estimates = Estimates()
        self.loop = StepLoop(self.estimates, share_steps=lambda model: models.share_steps.get(model, 1))
        self.admission = Admission(settings.max_jobs, settings.max_queue_seconds, self.loop.order)
        journal = None if settings.state is None else Journal(Path(settings.state))
        self.store = Store(settings.keep_seconds, settings.keep_bytes, journal)
        self.metrics = Metrics(installed()[1], self._gauges(), models.share_steps, self.loop.shared)
        self.failure: BaseException | None = None
        self.stopping = False
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="pictures")
        self._jobs: set[Job] = set()
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> bool:
        """Whether requests are taken: the models are warm, and the server does not stop."""
        return self.models.ready and not self.admission.draining

    @property
    def waiting(self) -> int:
        """The number of jobs that wait for their first unit of work."""
        return sum(job.state == QUEUED for job in self._jobs)

    @property
    def running(self) -> int:
        """The number of jobs that are worked on."""
        return sum(job.state == RUNNING for job in self._jobs)

    @property
    def stuck(self) -> str | None:
        """Why the step loop seems to be stuck, or None."""
        if self.models.ready and not self.loop.alive:
            return "the step loop has ended"
        since, most = self.loop.busy_since, max(_STUCK_SECONDS, _STUCK_TIMES * self.loop.allowance)
        if since is not None and time.monotonic() - since > most:
            return f"a unit of work has taken more than {most:.0f} s"
        return None

    async def start(self) -> None:
        """Warm up the models, then let the step loop begin.

        An error of the warm-up is raised, and kept in `failure`.
        """
        settings = self.settings
        try:
            await asyncio.to_thread(self.models.warm_up, settings.sizes, self.estimates, settings.share_steps)
        except Exception as error:
            self.failure = error
            raise
        self.loop.start()

    async def stop(self) -> None:
        """Cancel what is left, and free everything."""
        self.admission.draining = True
        self.cancel_all()
        await asyncio.to_thread(self.loop.close)
        if self._watching:
            await asyncio.wait(self._watching, timeout=10)
        self.store.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.models.close)

    def cancel_all(self) -> None:
        """Cancel every job, and let no request become one, because the server stops."""
        self.stopping = True
        for job in self._jobs:
            job.cancel("the server stopped", SHUTDOWN)

    async def drain(self) -> None:
        """Refuse new requests, and let the others end for `drain_seconds`; then cancel what is left."""
        self.admission.draining = True
        seconds = self.settings.drain_seconds
        _log.info("stopping: %d requests have %g s to end", self.admission.taken, seconds)
        try:
            await asyncio.wait_for(self.drained(), seconds)
        except asyncio.TimeoutError:
            _log.warning("stopping: %d requests did not end in time; they are cancelled", self.admission.taken)
            self.cancel_all()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.drained(), LAST_SECONDS)

    async def drained(self) -> None:
        """Wait until every request that has a place has ended, whether it is a job already or not."""
        while self.admission.taken:
            await asyncio.sleep(_POLL_SECONDS)

    def model(self, name: str | None, endpoint: str) -> Model:
        """The model of a request.

        Raises:
            FieldError: there is no such model, or it cannot do what is asked for.
        """
        wanted = INPAINT if endpoint == EDITS else TEXT_TO_IMAGE
        if name is None:
            found = self.models.of_task(wanted) or (self.models.of_task(TEXT_TO_IMAGE) if endpoint == EDITS else [])
            if not found:
                raise FieldError("model", f"no model of this server can do that; it has {self._all_models()}")
            return found[0]
        model = self.models.by_name.get(name)
        if model is None:
            raise FieldError("model", f"there is no model {name!r}; this server has {self._all_models()}")
        if endpoint != EDITS and model.task != TEXT_TO_IMAGE:
            raise FieldError("model", f"model {name} repaints pictures; send it to /v1/images/edits with a picture")
        return model

    async def plan(self, endpoint: str, asked: Asked, place: Place) -> tuple[Model, Work[Any]]:
        """Check a request's options and decode its pictures, off the event loop.

        A worker cannot be stopped: after the time limit it goes on, and keeps the place until it has ended.

        Args:
            endpoint, asked: the request.
            place: its place.

        Raises:
            Cancelled: the request's time limit has passed.
            FieldError, InputError, UsageError: something cannot be used.
        """
        model, limit = self.model(asked.model, endpoint), self.settings.time_limit
        if asked.timeout is not None:
            limit = min(limit, asked.timeout)
        planning = self._workers.submit(self._plan, model, asked)
        try:
            return model, await asyncio.wait_for(asyncio.wrap_future(planning), limit)
        except asyncio.TimeoutError:
            raise Cancelled(
                f"the time limit of {limit:g} s has passed before the pictures were read; send smaller ones, or PNG"
            ) from None
        finally:
            if not planning.done():
                loop, held = asyncio.get_running_loop(), place.moved()
                planning.add_done_callback(lambda _: _call_soon(loop, held.release))

    def submit(
        self, model: Model, work: Work[Any], asked: Asked, place: Place, owner: str, deadline: float | None
    ) -> Job:
        """Give work to the step loop.

        Args:
            model, work: of `plan`.
            asked: the request.
            place: its place, which is released when the job has ended.
            owner: whoever may see the job.
            deadline: seconds from now until the client gives up, or None.

        Raises:
            Busy: it would not be done in time.
            ServerStopped: the server has cancelled its jobs.
        """
        if self.stopping:
            raise ServerStopped
        limits = [limit for limit in (asked.timeout, deadline) if limit is not None]
        seconds = sum(self.estimates.run(model.name, run) for run in work.runs)
        self.admission.check(seconds, min(limits) if limits else None)
        job = Job(
            model, work, work.steps, seconds, self.estimates, self._workers, asked.format, asked.previews, owner,
            min([*limits, self.settings.time_limit]), self.metrics.unit, new_id(self.replica),
        )  # fmt: skip
        self._jobs.add(job)
        self.loop.submit(job)
        watching = asyncio.ensure_future(self._watch(job, place))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return job

    def position(self, job: Job) -> int:
        """The number of jobs that came before a waiting job and have not ended; 0 for one that is worked on."""
        if job.state != QUEUED:
            return 0
        order = self.loop.order()
        return order.index(job) if job in order else 0

    async def _watch(self, job: Job, place: Place) -> None:
        """Take note of a job's end."""
        await job.wait()
        self._jobs.discard(job)
        place.release()
        self.metrics.ended(job)
        self.store.ended(job)

    def _gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "k22_queue_depth": ("Jobs that wait for their first unit of work", lambda: self.waiting),
            "k22_requests_running": ("Jobs that are worked on", lambda: self.running),
            "k22_places_taken": ("Requests in the server", lambda: self.admission.taken),
            "k22_queue_seconds": ("Estimated seconds of all work that is left", self.admission.queue_seconds),
            "k22_kept_bytes": ("Bytes of results that are kept", lambda: self.store.kept_bytes),
            "k22_ready": ("Whether the server is ready", lambda: self.ready),
        }

    def _all_models(self) -> str:
        return ", ".join(self.models.by_name)

    def _plan(self, model: Model, asked: Asked) -> Work[Any]:
        """See `plan`; runs in a worker."""
        options = dict(asked.options) | {"max_pixels": self.settings.max_pixels}
        task = InpaintOptions if model.task == INPAINT else GenerateOptions
        if foreign := set(options) - set(option_fields(task)) - {"max_pixels", "num_images_per_prompt", "prompt"}:
            raise FieldError(min(foreign), f"{min(foreign)} is not for model {model.name}, whose task is {model.task}")
        if model.task != INPAINT:
            if asked.mask is not None:
                raise FieldError(
                    "mask", f"model {model.name} takes no mask; leave it out, or ask for one that repaints"
                )
            return _fitting(asked.format, model.plan(GenerateOptions(image=asked.image, **options)))
        return _fitting(asked.format, _checked(model.plan(_with_mask(options, asked))))


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call a function in the event loop's thread, unless the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)


def _with_mask(options: dict[str, Any], asked: Asked) -> InpaintOptions:
    """The options of a run of inpainting with picture and mask.

    Without a mask, what is transparent in the picture is repainted, as in OpenAI's edits.
    """
    most = options["max_pixels"]
    picture = read_picture(asked.image, max_pixels=most)  # type: ignore[arg-type]
    if asked.mask is not None:
        mask = understand_mask(asked.mask, mode=options.get("mask_mode", "auto"), max_pixels=most)
        sizes = (mask.image.size, mask.image.size[::-1] if picture.orientation >= 5 else mask.image.size)
        if not any(same_proportions(size, picture.image.size) for size in sizes):
            raise FieldError(
                "mask",
                f"the mask is {_size(mask.image)} and the picture {_size(picture.image)}; expected the same size or"
                " proportions",
            )
        return InpaintOptions(image=picture, mask_image=mask, **options)
    if picture.image.mode == "RGBA":
        if options.get("mask_mode", "auto") not in ("auto", "alpha"):
            raise FieldError("mask", "mask is missing; mask_mode is for a mask, and the picture's is its transparency")
        mask = understand_mask(asked.image, mode="alpha", max_pixels=most)  # type: ignore[arg-type]
        return InpaintOptions(image=picture, mask_image=replace(mask, notes=()), **options)
    if options.get("expand") is not None:
        return InpaintOptions(image=picture, **options)
    raise FieldError(
        "mask",
        "mask is missing; send a picture of the same size whose white, or whose transparency, is to be repainted, or a"
        " picture that is transparent there",
    )


def _checked(work: Work[Any]) -> Work[Any]:
    """The work, if a mask has something to repaint."""
    for run in work.runs:
        if run.request.keeps_everything:
            raise FieldError("mask", "; ".join(dict.fromkeys([*run.request.notes, *run.request.understood])))
    return work


def _fitting(form: Format, work: Work[Any]) -> Work[Any]:
    """The work, if the format can hold its results."""
    for width, height in work.runs[0].request.result_sizes:
        if form.largest_side is not None and max(width, height) > form.largest_side:
            raise FieldError(
                "output_format",
                f"output_format is {form.name}, whose sides have at most {form.largest_side:,} pixels, and the result"
                f" is {width}x{height}; choose png, or a smaller size",
            )
    return work


def _size(image: Any) -> str:
    return f"{image.width}x{image.height}"

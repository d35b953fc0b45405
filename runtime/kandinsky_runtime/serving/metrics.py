"""The server's figures in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from kandinsky_runtime.serving.jobs import CANCELLED, Job
from kandinsky_runtime.units import Unit

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 600, 900, 1200)
_STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_MEGAPIXELS = (0.1, 0.3, 0.6, 1.1, 2.1, 4.2)  # 0.3: up to 512x512, 0.6: up to 768x768, 1.1: up to 1024x1024 …
_STAGES = {"prior": "prior", "encode_text": "prior", "encode_pictures": "prior", "encode": "encode", "decode": "decode"}


class Metrics:
    """Counters and histograms of one server."""

    def __init__(
        self, version: str, gauges: Mapping[str, tuple[str, Callable[[], float]]], share_steps: Mapping[str, int],
        shared: Mapping[int, int],
    ) -> None:  # fmt: skip
        """Make the figures.

        Args:
            version: of this distribution.
            gauges: (help, value) by name; each is read when the figures are asked for.
            share_steps: the number of requests that may share a step, by model; read when asked.
            shared: the number of steps by the number of requests that shared them; read when asked.
        """
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter("k22_requests", "Answered requests", ["endpoint", "status"], registry=registry)
        self.request_seconds = Histogram(
            "k22_request_duration_seconds",
            "Time until the end of an answer",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.rejected = Counter(
            "k22_rejected", "Requests that were refused for lack of room", ["reason"], registry=registry
        )
        self.cancelled = Counter("k22_requests_cancelled", "Jobs that were cancelled", ["reason"], registry=registry)
        self.jobs = Counter("k22_jobs", "Jobs that have ended", ["model", "state"], registry=registry)
        self.images = Counter("k22_images", "Pictures that were made", ["model"], registry=registry)
        self._queue_seconds = Histogram(
            "k22_queue_duration_seconds",
            "Time that a job waited for its first unit of work",
            buckets=_SECONDS,
            registry=registry,
        )
        self._step_seconds = Histogram(
            "k22_step_duration_seconds",
            "Time of a denoising step, by the most megapixels of its picture",
            ["model", "size"],
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "k22_stage_duration_seconds",
            "Time of a unit of the other phases",
            ["model", "stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        for name, (text, value) in gauges.items():
            Gauge(name, text, registry=registry).set_function(value)
        Gauge("k22_build_info", "The version", ["version"], registry=registry).labels(version).set(1)
        Gauge("k22_start_time_seconds", "Start of the server", registry=registry).set(time.time())
        self._share = Gauge("k22_share_steps", "Requests that may share a step", ["model"], registry=registry)
        self._steps = Gauge(
            "k22_steps_shared", "Steps by the number of requests that shared them", ["batch"], registry=registry
        )
        self._share_steps, self._shared = share_steps, shared

    def unit(self, job: Job, unit: Unit, seconds: float) -> None:
        """Count a unit of work; called from the step loop's thread."""
        if unit.phase == "denoise":
            work = job.work
            size = "" if work is None else size_class(work.runs[0].request.width, work.runs[0].request.height)
            self._step_seconds.labels(job.model.name, size).observe(seconds)
        elif unit.phase in _STAGES:
            self._stage_seconds.labels(job.model.name, _STAGES[unit.phase]).observe(seconds)

    def ended(self, job: Job) -> None:
        """Count a job that has ended."""
        self.jobs.labels(job.model.name, job.state).inc()
        self.images.labels(job.model.name).inc(len(job.images))
        self._queue_seconds.observe(job.seconds["queue"])
        if job.state == CANCELLED:
            self.cancelled.labels(job.cancelled_by or "time_limit").inc()

    def text(self) -> bytes:
        """All figures, in Prometheus' text format."""
        for model, count in self._share_steps.items():
            self._share.labels(model).set(count)
        for batch, count in list(self._shared.items()):
            self._steps.labels(batch).set(count)
        text: bytes = generate_latest(self._registry)
        return text


def size_class(width: int, height: int) -> str:
    """One of a few names for all sizes, because clients choose sizes and each name costs many lines."""
    megapixels = width * height / 1e6
    most = next((most for most in _MEGAPIXELS if megapixels <= most), None)
    return f"above {_MEGAPIXELS[-1]} MP" if most is None else f"up to {most} MP"

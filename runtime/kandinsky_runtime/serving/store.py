"""Jobs by their ids: those on their way, and the results of those that have ended, for a bounded time and size."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto
from weakref import WeakValueDictionary

from kandinsky_runtime.serving.jobs import CANCELLED, FAILED, Job
from kandinsky_runtime.serving.journal import LOST, UNFINISHED, Journal

_MOST_ENDED = 10_000  # ids that are remembered as expired


class Absence(Enum):
    """Why an owner has no job of an id."""

    LOST = auto()
    """A server before this one did not finish it."""
    EXPIRED = auto()
    """It has ended, and its results are no longer kept."""
    UNKNOWN = auto()
    """There was none, or it is another owner's."""


@dataclass(frozen=True)
class Remembered:
    """The answer for an idempotency key.

    Attributes:
        fingerprint: of the request's fields and files.
        job: the job that the request made.
    """

    fingerprint: str
    job: Job


class Store:
    """The jobs of a server; used from the event loop's thread.

    Only jobs that were made as such, or with an idempotency key, are kept after their end.
    """

    def __init__(self, keep_seconds: float, keep_bytes: int, journal: Journal | None) -> None:
        self._keep_seconds, self._keep_bytes, self._journal = keep_seconds, keep_bytes, journal
        self._jobs: dict[str, Job] = {}
        self._ended: OrderedDict[str, float] = OrderedDict()  # id → time of its end, the oldest first
        self._expired: OrderedDict[str, str] = OrderedDict()  # id → owner
        self._keys: dict[tuple[str, str], Remembered] = {}
        # A lock lives as long as somebody waits for it.
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        if journal is not None:
            self._expired.update(journal.ended)

    @property
    def kept_bytes(self) -> int:
        """The bytes of results that are kept."""
        return sum(self._jobs[job].kept_bytes for job in self._ended)

    def add(self, job: Job, key: str | None = None, fingerprint: str = "") -> None:
        """Keep a job; with an idempotency key, another request with this key finds it."""
        self._jobs[job.id] = job
        if key is not None:
            self._keys[job.owner, key] = Remembered(fingerprint, job)
        if self._journal is not None:
            self._journal.write(job.id, job.owner, UNFINISHED)

    def ended(self, job: Job) -> None:
        """Take note that a job has ended; old results are dropped to make room."""
        if job.id not in self._jobs:
            return
        self._ended[job.id] = time.monotonic()
        if self._journal is not None:
            self._journal.write(job.id, job.owner, LOST if job.interrupted else job.state)
        self.drop_old()

    def drop_old(self) -> None:
        """Drop the results that are too old, or too large together."""
        now, size = time.monotonic(), self.kept_bytes
        while self._ended:
            job, ended = next(iter(self._ended.items()))
            if now - ended <= self._keep_seconds and size <= self._keep_bytes:
                return
            size -= self._jobs[job].kept_bytes
            self.drop(self._jobs[job])

    def drop(self, job: Job) -> None:
        """Forget a job that has ended."""
        self._jobs.pop(job.id, None)
        self._ended.pop(job.id, None)
        self._keys = {key: known for key, known in self._keys.items() if known.job is not job}
        self._expired[job.id] = job.owner
        while len(self._expired) > _MOST_ENDED:
            self._expired.popitem(last=False)

    def of_owner(self, owner: str) -> list[Job]:
        """An owner's jobs, the oldest first."""
        self.drop_old()
        return [job for job in self._jobs.values() if job.owner == owner]

    def find(self, owner: str, job: str) -> Job | Absence:
        """An owner's job, or why there is none."""
        self.drop_old()
        found = self._jobs.get(job)
        if found is not None:
            return found if found.owner == owner else Absence.UNKNOWN
        if self._journal is not None and self._journal.lost.get(job) == owner:
            return Absence.LOST
        return Absence.EXPIRED if self._expired.get(job) == owner else Absence.UNKNOWN

    def remembered(self, owner: str, key: str) -> Remembered | None:
        """The answer for an idempotency key; None also after a failure, so that the request may be tried again."""
        self.drop_old()
        known = self._keys.get((owner, key))
        return None if known is None or known.job.state in (FAILED, CANCELLED) else known

    @asynccontextmanager
    async def turn(self, owner: str, key: str | None) -> AsyncIterator[None]:
        """The context in which a request becomes a job; requests of one idempotency key follow each other."""
        if key is None:
            yield
            return
        lock = self._turns.setdefault((owner, key), asyncio.Lock())
        async with lock:
            yield

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

"""Who may enter: a place is taken before a request's body is read, and kept until its job has ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kandinsky_runtime.serving.step_loop import OLDEST_SHARE, Task

_LONGEST_RETRY = 120  # seconds; OpenAI's client does not retry after more
_LONGER = 2.0  # a task with more than so many times the work of another lets it go first


class Busy(Exception):
    """The server has no room for a request now.

    Attributes:
        reason: "queue_full", "queue_too_long", "deadline" or "draining".
        retry_after: seconds after which another try may succeed.
        retry: whether another try may succeed at all.
    """

    def __init__(self, message: str, reason: str, retry_after: float, *, retry: bool = True) -> None:
        super().__init__(message)
        self.reason, self.retry = reason, retry
        self.retry_after = max(1, min(_LONGEST_RETRY, math.ceil(retry_after)))


class Place:
    """A request's place; release it once."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def moved(self) -> Place:
        """The same place for another holder; this one's `release` then does nothing."""
        release, self._release = self._release, None
        return Place(release or (lambda: None))

    def release(self) -> None:
        """Give the place to the next request; nothing happens the second time."""
        release, self._release = self._release, None
        if release is not None:
            release()


class Admission:
    """Counts the requests in the server, and estimates how long they will take; used from one thread.

    Attributes:
        taken: the places that are taken.
        draining: whether no new request may enter.
    """

    def __init__(self, most: int, most_seconds: float, order: Callable[[], Sequence[Task]]) -> None:
        """Make the door of a server.

        Args:
            most: the number of places.
            most_seconds: the estimated seconds of waiting that are too long.
            order: returns the step loop's tasks, in the order of their arrival.
        """
        self._most, self._most_seconds, self._order = most, most_seconds, order
        self.taken = 0
        self.draining = False

    def enter(self) -> Place:
        """Take a place.

        Raises:
            Busy: there is none, or the server is about to stop.
        """
        if self.draining:
            raise Busy("the server is about to stop; try another one, or try again", "draining", 5)
        if self.taken >= self._most:
            raise Busy(
                f"the server has {self.taken} requests, and no room for more; try again", "queue_full",
                self.queue_seconds() / self._most,
            )  # fmt: skip
        self.taken += 1
        return Place(self._leave)

    def check(self, seconds: float, deadline: float | None) -> None:
        """Check whether a request can be done in time.

        Args:
            seconds: its estimated seconds of work.
            deadline: seconds from now until its client gives up, or None.

        Raises:
            Busy: it would wait too long.
        """
        wait = self.wait(seconds)
        if wait > self._most_seconds:
            raise Busy(
                f"the request would wait for about {wait:.0f} s, at most {self._most_seconds:g} s are taken; try"
                " again", "queue_too_long", wait - self._most_seconds,
            )  # fmt: skip
        if deadline is None or wait + seconds <= deadline:
            return
        if seconds > deadline:
            raise Busy(
                f"the request takes about {seconds:.0f} s of work, and its client gives up after {deadline:g} s; take"
                " fewer steps or a smaller size, or send it to /v1/jobs", "deadline", seconds, retry=False,
            )  # fmt: skip
        raise Busy(
            f"the request would be done in about {wait + seconds:.0f} s, and its client gives up after {deadline:g} s;"
            " try again", "deadline", wait + seconds - deadline,
        )  # fmt: skip

    def wait(self, seconds: float) -> float:
        """The estimated seconds of waiting of a request with so many seconds of work."""
        left = [task.remaining() for task in self._order()]
        before = sum(work for work in left if work <= _LONGER * seconds)
        passes_some = any(work > _LONGER * seconds for work in left)
        return before + (before + seconds) * OLDEST_SHARE / (1 - OLDEST_SHARE) * passes_some

    def queue_seconds(self) -> float:
        """The estimated seconds of all work that is left."""
        return sum(task.remaining() for task in self._order())

    def _leave(self) -> None:
        self.taken -= 1

"""The step loop: who comes next, sharing, cancelling and failing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from kandinsky_runtime.errors import Cancelled
from kandinsky_runtime.serving import step_loop
from kandinsky_runtime.serving.estimates import Estimates
from kandinsky_runtime.serving.step_loop import OLDEST_SHARE, StepLoop
from kandinsky_runtime.units import Unit, Units

UNIT_SECONDS = 2**-9
"""About 2 ms, in a number whose sums are exact."""


class FakeClock:
    """A clock that only `sleep` moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeTask:
    """A task of `count` units; the log gets its name for each unit."""

    def __init__(self, name: str, count: int, log: list[str], *, model: str = "m", alone: bool = False) -> None:
        self.label, self.count, self.log = name, count, log
        self.name, self.alone = model, alone
        self.stopped: str | None = None
        self.left = count * UNIT_SECONDS
        self.ended = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.closed = False
        self.during: Callable[[int], None] = lambda i: None
        self.sleep: Callable[[float], None] = time.sleep

    def begin(self) -> Units[str]:
        try:
            for i in range(self.count):
                yield Unit("denoise", i, self.count, 100)
                self.sleep(UNIT_SECONDS)
                self.log.append(self.label)
                self.during(i)
            return f"{self.label} is done"
        finally:
            self.closed = True

    def remaining(self) -> float:
        return self.left

    def did(self, unit: Unit, seconds: float) -> None:
        self.left -= UNIT_SECONDS

    def done(self, result: Any) -> None:
        self.result = result
        self.ended.set()

    def failed(self, error: BaseException) -> None:
        self.error = error
        self.ended.set()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The step loop's clock, in place of the machine's, which other work may hold up."""
    clock = FakeClock()
    monkeypatch.setattr(step_loop, "time", clock)
    return clock


@pytest.fixture
def loop() -> Iterator[StepLoop]:
    made = StepLoop(Estimates())
    yield made
    made.close(5)


def finish(loop: StepLoop, *tasks: FakeTask) -> None:
    """Let all tasks run that are waiting, and wait for them."""
    for task in tasks:
        loop.submit(task)
    loop.start()
    for task in tasks:
        assert task.ended.wait(20), task.label


def test_equal_tasks_follow_each_other(loop: StepLoop, log: list[str]) -> None:
    tasks = [FakeTask(name, 20, log) for name in "abc"]
    finish(loop, *tasks)
    assert "".join(log) == "a" * 20 + "b" * 20 + "c" * 20
    assert tasks[1].result == "b is done"


def test_a_short_task_goes_before_a_long_one(loop: StepLoop, log: list[str]) -> None:
    long, short = FakeTask("l", 100, log), FakeTask("s", 10, log)
    long.during = lambda i: loop.submit(short) if i == 20 else None
    finish(loop, long)
    assert short.ended.wait(5)
    text = "".join(log)
    assert text.rindex("s") < 45, "its ten units end soon after it came, though the long task keeps its share"


def test_a_task_that_is_nearly_done_is_not_passed(loop: StepLoop, log: list[str]) -> None:
    first, second = FakeTask("a", 40, log), FakeTask("b", 10, log)
    first.during = lambda i: loop.submit(second) if i == 28 else None
    finish(loop, first)
    assert second.ended.wait(5)
    assert "".join(log) == "a" * 40 + "b" * 10


def test_a_stream_of_short_tasks_does_not_starve_a_long_one(clock: FakeClock, loop: StepLoop, log: list[str]) -> None:
    long = FakeTask("l", 50, log)
    long.sleep = clock.sleep
    stop = threading.Event()
    long.during = lambda i: stop.set() if i == 49 else None

    def follow(_: int) -> None:
        if not stop.is_set():
            loop.submit(next_short())

    def next_short() -> FakeTask:
        short = FakeTask("s", 5, log)
        short.sleep = clock.sleep
        short.during = lambda i: follow(i) if i == 4 else None
        return short

    loop.submit(long)
    for _ in range(3):
        loop.submit(next_short())
    loop.start()
    assert long.ended.wait(20)
    places = [place for place, name in enumerate(log) if name == "l"]
    contested = places[:40]  # with 10 units left or fewer, a short task of 5 no longer goes first
    assert [later - earlier for earlier, later in pairwise(contested)] == [1 / OLDEST_SHARE] * 39


def test_a_cancelled_task_ends_within_one_unit(loop: StepLoop, log: list[str]) -> None:
    task, waiting = FakeTask("a", 1000, log), FakeTask("b", 5, log)

    def cancel(i: int) -> None:
        if i == 9:
            task.stopped = "nobody wants it"

    task.during = cancel
    finish(loop, task, waiting)
    assert log.count("a") == 10
    assert isinstance(task.error, Cancelled)
    assert str(task.error) == "nobody wants it"
    assert task.closed, "its memory is freed"
    assert log.count("b") == 5


def test_a_waiting_task_is_cancelled_without_beginning(loop: StepLoop, log: list[str]) -> None:
    first, second = FakeTask("a", 20, log), FakeTask("b", 20, log)
    second.stopped = "changed my mind"
    finish(loop, first, second)
    assert "b" not in log
    assert isinstance(second.error, Cancelled)


def test_a_failure_is_its_tasks_own(loop: StepLoop, log: list[str], caplog: pytest.LogCaptureFixture) -> None:
    bad, good = FakeTask("a", 20, log), FakeTask("b", 20, log)

    def fail(i: int) -> None:
        if i == 3:
            raise MemoryError("no room")

    bad.during = fail
    finish(loop, bad, good)
    assert isinstance(bad.error, MemoryError)
    assert good.result == "b is done"
    assert loop.alive
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is bad.error


def test_a_model_with_memory_for_one_does_one_at_a_time(loop: StepLoop, log: list[str]) -> None:
    long = FakeTask("l", 60, log, alone=True)
    short, other = FakeTask("s", 5, log, alone=True), FakeTask("o", 5, log, model="another")
    long.during = lambda i: [loop.submit(task) for task in (short, other)] and None if i == 10 else None
    finish(loop, long)
    assert short.ended.wait(5)
    assert other.ended.wait(5)
    text = "".join(log)
    assert text.index("s") > text.rindex("l")
    assert text.rindex("o") < text.rindex("l")


def test_at_most_so_many_have_begun(log: list[str]) -> None:
    loop = StepLoop(Estimates(), most_active=2)
    begun = []
    tasks = [FakeTask(str(number), 40 - 12 * number, log) for number in range(3)]
    tasks[2].during = lambda i: begun.append(sum(task.left < task.count * UNIT_SECONDS for task in tasks))
    finish(loop, *tasks)
    loop.close(5)
    assert max(begun) <= 2


def test_closing_cancels_what_is_left(loop: StepLoop, log: list[str]) -> None:
    tasks = [FakeTask("a", 10_000, log), FakeTask("b", 10, log)]
    for task in tasks:
        loop.submit(task)
    loop.start()
    while not log:
        time.sleep(0.001)
    loop.close(5)
    assert not loop.alive
    assert all(task.ended.is_set() for task in tasks)
    assert isinstance(tasks[0].error, Cancelled)


def test_times_are_learned(clock: FakeClock, log: list[str]) -> None:
    estimates = Estimates()
    loop, task = StepLoop(estimates), FakeTask("a", 20, log)
    task.sleep = clock.sleep
    finish(loop, task)
    loop.close(5)
    assert estimates.unit("m", "denoise", 100) == UNIT_SECONDS
    assert estimates.unit("m", "denoise", 300) == pytest.approx(3 * estimates.unit("m", "denoise", 100))
    assert estimates.unit("m", "decode", 100) == 0
    assert estimates.unit("another", "denoise", 100) == 0


def test_one_slow_unit_does_not_spoil_an_estimate() -> None:
    estimates = Estimates()
    for seconds in (30.0, 1.0, 1.1, 0.9):
        estimates.learn("m", "denoise", 10, seconds)
    assert estimates.unit("m", "denoise", 10) == pytest.approx(1.05)

"""The step loop: one thread drives the engines, and chooses after every unit of work whose unit comes next.

Who comes next:

- The task that runs goes on, so that equal tasks finish one after the other, in the order of their arrival.
- A task with at most half of its remaining work goes before it: short tasks do not wait for long ones.
- The oldest task gets at least a quarter of the time, whatever else arrives: long tasks are not starved.

Steps of several tasks are computed as one batch if `share_steps` allows it and their latents have one size. Everything
else (a prior's step, a picture to encode or to decode) is a unit of its own, so that no phase of one task stalls the
steps of another for longer than one unit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kandinsky_runtime.decoder.run import StepUnit
from kandinsky_runtime.decoder.unet import predict_together
from kandinsky_runtime.errors import Cancelled, Kandinsky22Error
from kandinsky_runtime.serving.estimates import Estimates
from kandinsky_runtime.units import Unit, Units

OLDEST_SHARE = 0.25
_SHORTER = 0.5  # of the remaining work of the task that runs

_log = logging.getLogger(__name__)


class Task(Protocol):
    """What the loop drives. Its methods are called from the loop's thread, between two units."""

    @property
    def name(self) -> str:
        """The model's name."""

    @property
    def alone(self) -> bool:
        """Whether no other task of the model may be on its way: the model has memory for one."""

    @property
    def stopped(self) -> str | None:
        """Why the task is to stop; None while it is wanted."""

    def begin(self) -> Units[Any]:
        """The task's work; called once, when the first unit is about to be done."""

    def remaining(self) -> float:
        """The seconds of work that are left, estimated."""

    def did(self, unit: Unit, seconds: float) -> None:
        """Called after a unit was done."""

    def done(self, result: Any) -> None:
        """Called after the last unit."""

    def failed(self, error: BaseException) -> None:
        """Called if a unit raised, or with `Cancelled` if the task was stopped."""


class _Active:
    """A task on its way: its generator, and the unit that it does next."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.units: Units[Any] | None = None
        self.next: Unit | None = None
        self.oldest_since: float | None = None
        self.served = 0.0  # seconds of units since it became the oldest
        self.reached_steps = False


@dataclass(frozen=True)
class _End:
    """How a task ended: with a result, or with an error."""

    result: Any = None
    error: BaseException | None = None


class StepLoop:
    """Drives tasks from a thread of its own.

    Attributes:
        busy_since: the time (`time.monotonic`) at which the unit in progress began; None between units.
        allowance: the estimated seconds of the unit in progress.
    """

    def __init__(self, estimates: Estimates, *, share_steps: Callable[[str], int] | int = 1, most_active: int = 8):
        """Make a loop; `start` starts its thread.

        Args:
            estimates: learns the time of every unit.
            share_steps: the number of tasks that may share a step, or a function from a model's name to it.
            most_active: the number of tasks that may have begun and not ended; the others wait.
        """
        self.busy_since: float | None = None
        self.allowance = 0.0
        self.shared: dict[int, int] = {}  # tasks in a step → number of steps
        self._estimates, self._most_active = estimates, most_active
        self._share_steps = share_steps if callable(share_steps) else lambda model: share_steps
        self._changed = threading.Condition()
        self._active: list[_Active] = []
        self._current: _Active | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, task: Task) -> None:
        """Add a task; its methods report what becomes of it."""
        with self._changed:
            self._active.append(_Active(task))
            self._changed.notify()

    def close(self, timeout: float | None = None) -> None:
        """Stop after the unit in progress; tasks that are left fail with `Cancelled`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def order(self) -> list[Task]:
        """The tasks in the order of their arrival."""
        with self._changed:
            return [active.task for active in self._active]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closing and not self._active:
                    self._changed.wait()
                every = list(self._active)
            for active in every:
                if self._closing or active.task.stopped is not None:
                    self._stop(active, active.task.stopped or "the server stops")
            if self._closing:
                return
            with self._changed:
                every = list(self._active)
            if every:
                self._do(self._choose(every))

    def _choose(self, every: list[_Active]) -> _Active:
        """The task whose unit comes next."""
        now = time.monotonic()
        begun = [active for active in every if active.units is not None]
        full = len(begun) >= self._most_active
        closed = {active.task.name for active in begun if active.task.alone}
        able = [active for active in every if active.units is not None or not (full or active.task.name in closed)]
        chosen = self._next_of(able, now)
        return self._joining(chosen, able) or chosen

    def _next_of(self, able: list[_Active], now: float) -> _Active:
        oldest = able[0]
        if oldest.oldest_since is None:
            oldest.oldest_since, oldest.served = now, 0.0
        if oldest.served < OLDEST_SHARE * (now - oldest.oldest_since):
            return oldest
        shortest = min(able, key=lambda active: active.task.remaining())  # of equal ones, the first that came
        current = self._current if self._current in able else None
        if current is None:
            return shortest if shortest.task.remaining() <= _SHORTER * oldest.task.remaining() else oldest
        return shortest if shortest.task.remaining() <= _SHORTER * current.task.remaining() else current

    def _joining(self, chosen: _Active, able: list[_Active]) -> _Active | None:
        """A task on its way to its steps, if there is room for it in the steps of the chosen one."""
        cap, key = self._share_steps(chosen.task.name), _key(chosen)
        if key is None or sum(_key(active) == key for active in able) >= cap:
            return None
        return next(
            (active for active in able if active.task.name == chosen.task.name and not active.reached_steps), None
        )

    def _do(self, active: _Active) -> None:
        """Do the next unit of a task, and with it the steps of others that share it."""
        self._current = active
        if active.units is None:
            active.units = active.task.begin()
            self._report(active, None, 0.0, self._advance(active, None))  # does no work: it gives the first unit
        if active.next is None:
            return
        group = self._sharing(active)
        units = [member.next for member in group]
        self.allowance = sum(self._expected(member) for member in group)
        begun = self.busy_since = time.monotonic()
        try:
            ends = self._advance_together(group) if len(group) > 1 else [self._advance(active, None)]
        finally:
            self.busy_since = None
        seconds = time.monotonic() - begun
        if isinstance(units[0], StepUnit):
            self.shared[len(group)] = self.shared.get(len(group), 0) + 1
        for member, unit, end in zip(group, units, ends, strict=True):
            if unit is not None and len(group) == 1:
                self._estimates.learn(member.task.name, unit.phase, unit.size, seconds)
            self._report(member, unit, seconds, end)

    def _report(self, active: _Active, unit: Unit | None, seconds: float, end: _End | None) -> None:
        """Report the unit, and the end if there is one, to a task."""
        active.served += seconds
        if unit is not None:
            active.task.did(unit, seconds)
        if end is None:
            return
        self._leave(active)
        if end.error is None:
            active.task.done(end.result)
        else:
            if not isinstance(end.error, Cancelled):
                fault = None if isinstance(end.error, Kandinsky22Error) else end.error
                _log.error("a task of %s failed: %s", active.task.name, end.error, exc_info=fault)
            active.task.failed(end.error)

    def _expected(self, active: _Active) -> float:
        unit = active.next
        return 0.0 if unit is None else self._estimates.unit(active.task.name, unit.phase, unit.size)

    def _sharing(self, active: _Active) -> list[_Active]:
        """The tasks that do their next step with a task's, itself first."""
        cap = self._share_steps(active.task.name)
        key = _key(active)
        if cap < 2 or key is None:
            return [active]
        others = [other for other in self._begun() if other is not active and _key(other) == key]
        return [active, *others[: cap - 1]]

    def _begun(self) -> list[_Active]:
        with self._changed:
            return [active for active in self._active if active.units is not None]

    def _advance_together(self, group: list[_Active]) -> list[_End | None]:
        """One step of each task, computed as one batch; if that fails, every task of the group fails."""
        units = [member.next for member in group if isinstance(member.next, StepUnit)]
        try:
            outputs = predict_together(
                [(unit.run.unet, unit.step.latents, unit.step.timestep, unit.step.guided) for unit in units]
            )
        except Exception as error:
            return [_End(error=error) for _ in group]
        return [self._advance(member, output) for member, output in zip(group, outputs, strict=True)]

    def _advance(self, active: _Active, answer: Any) -> _End | None:
        """Do a task's unit, unless it is computed already; None unless that was the last one, or failed."""
        try:
            active.next = active.units.send(answer) if active.units is not None else None
            active.reached_steps = active.reached_steps or isinstance(active.next, StepUnit)
        except StopIteration as end:
            return _End(result=end.value)
        except Exception as error:
            return _End(error=error)
        return None

    def _stop(self, active: _Active, reason: str) -> None:
        self._report(active, None, 0.0, _End(error=Cancelled(reason)))

    def _leave(self, active: _Active) -> None:
        if active.units is not None:
            active.units.close()  # frees what the run holds
        active.units, active.next = None, None
        with self._changed:
            self._active.remove(active)
        if self._current is active:
            self._current = None


def _key(active: _Active) -> tuple[Any, ...] | None:
    """What the steps of tasks that share one have in common; None if the next unit is no step."""
    unit = active.next
    if not isinstance(unit, StepUnit):
        return None
    return active.task.name, unit.step.latents.shape[1:]

"""Clock, progress bar, callback and cancellation of a run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from kandinsky_runtime.errors import Cancelled, UsageError
from kandinsky_runtime.observers import Clock, RunObserver

LATENTS = np.arange(4, dtype=np.float32).reshape(1, 4)


def test_a_clock_adds_up_also_after_an_error() -> None:
    clock = Clock()
    with clock("outer"):
        with clock("inner"):
            pass
        with pytest.raises(ValueError, match="x"), clock("inner"):
            raise ValueError("x")
    assert list(clock.seconds) == ["inner", "outer"]
    assert clock.seconds["outer"] >= clock.seconds["inner"] >= 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"callback": 3}, "callback_on_step_end is 3; expected a function"),
        ({"cancel": True}, "cancel is True; expected a threading.Event"),
        ({"progress": "yes"}, "progress is 'yes'; expected True or False"),
    ],
)
def test_values_of_another_type(values: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        RunObserver(**values)


def test_steps_stop_when_the_event_is_set() -> None:
    cancel = threading.Event()
    steps = RunObserver(cancel=cancel).steps([9.0, 7.0, 5.0, 3.0])
    assert [next(steps), next(steps)] == [(0, 9.0), (1, 7.0)]
    cancel.set()
    with pytest.raises(Cancelled, match="cancelled before step 3 of 4"):
        next(steps)


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_is_on_stderr(shown: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(list(RunObserver(progress=shown, title="painting").steps([1.0, 2.0]))) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert ("painting: 100%" in err and "2/2" in err) == shown


def test_latents_are_the_callbacks_to_change() -> None:
    def change(owner: object, step: int, timestep: float, values: dict[str, Any]) -> None:
        assert (owner, step, timestep) == ("pipeline", 2, 7.0)
        values["latents"] = values["latents"] + 1

    np.testing.assert_array_equal(RunObserver(change).after_step("pipeline", 2, 7.0, LATENTS), LATENTS + 1)
    returned = RunObserver(lambda *_: {"latents": LATENTS * 2}).after_step(None, 0, 1.0, LATENTS)
    np.testing.assert_array_equal(returned, LATENTS * 2)
    assert RunObserver().after_step(None, 0, 1.0, LATENTS) is LATENTS


def test_a_callback_gets_a_copy() -> None:
    before = LATENTS.copy()

    def scribble(_: object, step: int, timestep: float, values: dict[str, Any]) -> dict[str, Any]:
        values["latents"].fill(7)
        return {"latents": before}

    RunObserver(scribble).after_step(None, 0, 1.0, LATENTS)
    np.testing.assert_array_equal(LATENTS, before)


def test_a_callback_that_returns_something_else() -> None:
    with pytest.raises(UsageError, match="callback_on_step_end returned 3; expected None or a dict with `latents`"):
        RunObserver(lambda *_: 3).after_step(None, 0, 1.0, LATENTS)  # type: ignore[arg-type,return-value]

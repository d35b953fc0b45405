"""Pictures on the way: what the decoder expects the result to be, shown after some of its steps."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from PIL import Image

from kandinsky_runtime.decoder.run import StepUnit
from kandinsky_runtime.units import Units

Result = TypeVar("Result")
Show = Callable[[int, Image.Image], None]
"""(number of the preview, from 0; picture)"""


def preview_steps(count: int, steps: int) -> tuple[int, ...]:
    """The steps, from 0, after which `count` previews are shown: evenly spread, and none after the last step."""
    return tuple(sorted({round(steps * (number + 1) / (count + 1)) - 1 for number in range(count)} - {-1, steps - 1}))


def with_previews(units: Units[Result], after: Collection[int], show: Show) -> Units[Result]:
    """The same units, with the decoding of a preview after some steps.

    Args:
        units: the work's.
        after: the numbers of the steps, from 0, counted over all runs of the work.
        show: called with each preview, between two units.
    """
    answer: Any = None
    step, shown = 0, 0
    while True:
        try:
            unit = units.send(answer)
        except StopIteration as end:
            result: Result = end.value
            return result
        answer = yield unit
        if not isinstance(unit, StepUnit):
            continue
        if step in after:
            if answer is None:
                answer = unit.run.predict(unit.step)
            picture = yield from unit.run.preview(unit.trajectory.clean(answer))
            show(shown, picture)
            shown += 1
        step += 1

"""Units of work: a run in pieces, so that its caller decides when the next one is done.

A generator of units yields the description of a piece before it does it, and returns the result of the whole:

    for unit in units:          # nothing is done before the first turn; each turn does the piece described before
        ...

A caller that drives several runs advances one generator at a time, from one thread. Closing a generator frees what its
run holds.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Unit:
    """The next piece of a run.

    Attributes:
        phase: `encode_text`, `encode_pictures`, `prior`, `load`, `encode`, `denoise` or `decode`.
        i: the piece's number within its phase, from 0.
        count: the number of pieces in the phase.
        size: how much the piece computes on, in numbers of its phase's own kind; its time grows with it.
    """

    phase: str
    i: int
    count: int
    size: int


Units: TypeAlias = "Generator[Unit, Any, Result]"


def do_all(units: Units[Result]) -> Result:
    """Do every unit, one after the other, and return the result."""
    while True:
        try:
            next(units)
        except StopIteration as end:
            result: Result = end.value
            return result

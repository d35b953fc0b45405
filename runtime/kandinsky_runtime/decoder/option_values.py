"""The checks and parsers of single options, for `options.py`. They load nothing but the standard library."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from kandinsky_runtime.checks import choice, real_number, whole_number, writable_path
from kandinsky_runtime.decoder.declarations import Check
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.limits import MAX_PIXELS


def whole(least: int, most: int | None = None) -> Check:
    """The check of a whole number from `least` to `most`."""
    return partial(whole_number, least=least, most=most)


def one_of(choices: Sequence[str]) -> Check:
    """The check of one of several texts."""

    def check(name: str, value: Any) -> Any:
        choice(name, value, choices)
        return value

    return check


def real(least: float, most: float | None = None, *, exclusive: bool = False) -> Check:
    """The check of a number from `least`, itself refused with `exclusive`, to `most`."""
    return partial(real_number, least=least, most=most, exclusive=exclusive)


def edges(name: str, value: Any) -> tuple[int, ...]:
    """Four whole numbers of at least 0, not all 0."""
    if isinstance(value, (tuple, list)) and len(value) == 4:
        sides = tuple(whole_number(name, side, 0, MAX_PIXELS) for side in value)
        if any(sides):
            return sides
    raise UsageError(
        f"{name} is {value!r}; expected four whole numbers of at least 0, not all 0, such as (0, 0, 128, 0)"
    )


def four_edges(text: str) -> tuple[int, ...]:
    """Four whole numbers from the command line."""
    try:
        sides = tuple(int(side) for side in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) != 4:
        raise ValueError(f"{text!r} is not four whole numbers, such as 0,0,128,0")
    return sides


def writable(name: str, path: Any) -> Any:
    """The path of a file that can be written."""
    writable_path(name, path)
    return path


def interval(text: str) -> tuple[float, float]:
    """Two noise levels from the command line."""
    try:
        low, high = (float(item) for item in text.split(":"))
    except ValueError:
        raise ValueError(f"{text!r} is not two noise levels, such as 0.3:5") from None
    return low, high

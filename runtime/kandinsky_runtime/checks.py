"""Checks of a caller's single values: whole numbers, flags, choices, and arrays of real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.errors import InputError, UsageError

Array = npt.NDArray[np.float32]


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int; numpy's integers count, bools do not.

    Raises:
        UsageError: not a whole number from `least` to `most`.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        number = int(value)
        if number >= least and (most is None or number <= most):
            return number
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise UsageError(f"{name} is {value!r}; expected a whole number {span}")


def flag(name: str, value: Any) -> bool:
    """`value` as a bool.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise UsageError(f"{name} is {value!r}; expected True or False")


def choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        UsageError: it is not; lists them.
    """
    if not isinstance(value, str) or value not in choices:
        raise UsageError(f"{name} is {value!r}; choose from {', '.join(choices)}")


def finite_floats(subject: str, value: Any) -> Array:
    """A copy of `value` as a float32 array of any shape.

    Args:
        subject: how errors name it.
        value: whatever numpy makes an array of real numbers from.

    Raises:
        InputError: numpy makes no such array from it, or a number is NaN, infinite or too large for float32.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists, and whatever another library's arrays raise
        raise InputError(f"{subject}: no array can be made from {type(value).__name__} ({error})") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{subject}: got {type(value).__name__} of dtype {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise InputError(f"{subject}: has NaN, infinity or numbers too large for float32; expected finite numbers")
    return floats

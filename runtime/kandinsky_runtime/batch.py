"""Values that a caller gives once, or once for each sample of a batch."""

from __future__ import annotations

import secrets
from collections.abc import Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_SEED

Array = npt.NDArray[np.float32]


def as_list(name: str, value: Any) -> list[Any]:
    """A value, or a list or tuple of values, as a list.

    Raises:
        InputError: the list is empty.
    """
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise InputError(f"{name} is an empty list; give at least one")
    return items


def check_lengths(prompts: int, **inputs: Sized) -> None:
    """Check that each input has one entry for all, or one for each of `prompts`; empty inputs are ignored.

    Raises:
        InputError: an input has another length; lists the length of every input.
    """
    lengths = {name: len(value) for name, value in inputs.items() if len(value)}
    if any(length not in (1, prompts) for length in lengths.values()):
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"got {listed}; expected one for all or one for each of {prompts}")


def per_sample(items: npt.NDArray[Any], prompts: int, repeats: int) -> npt.NDArray[Any]:
    """One entry for each sample: a single entry is used for all, and each is repeated `repeats` times in a row."""
    return np.repeat(np.broadcast_to(items, (prompts, *items.shape[1:])), repeats, axis=0)


def seeds_for(seed: Any, batch: int) -> tuple[int, ...]:
    """A seed for each of `batch` results, from a first seed, one seed for each result, or None to draw one.

    Raises:
        InputError: the list of seeds has another length.
        UsageError: a seed is not a whole number, or out of range.
    """
    if seed is None:
        seed = secrets.randbits(32)
    if isinstance(seed, np.ndarray) and seed.ndim == 1:
        seed = seed.tolist()
    if isinstance(seed, (list, tuple)):
        if len(seed) != batch:
            raise InputError(f"got {len(seed)} seeds for {batch} results; expected one, or one for each result")
        return tuple(whole_number("seed", item, 0, MAX_SEED) for item in seed)
    first = whole_number("seed", seed, 0, MAX_SEED - batch + 1)
    return tuple(range(first, first + batch))


def as_latents(name: str, latents: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """A copy of latents as a float32 array of `shape`.

    Raises:
        InputError: the latents have another shape, are not numeric, or are not finite.
    """
    array = finite_floats(name, latents)
    if array.shape != shape:
        raise InputError(f"{name}: the shape is {array.shape}; this run takes {shape}")
    return array


def finite_floats(subject: str, value: Any) -> Array:
    """A copy of `value` as a float32 array of any shape.

    Args:
        subject: the name of the value in errors.
        value: any value that numpy converts to an array of real numbers.

    Raises:
        InputError: numpy cannot convert it, or a number is NaN, infinite or too large for float32.
    """
    try:
        array = np.asarray(value)
    except Exception as error:  # ragged lists; arrays of other libraries raise errors of any kind
        raise InputError(
            f"{subject}: cannot convert {type(value).__name__} to an array ({error}); expected real numbers"
        ) from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{subject}: got {type(value).__name__} of dtype {array.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise InputError(f"{subject}: has NaN, infinity or numbers too large for float32; expected finite numbers")
    return floats

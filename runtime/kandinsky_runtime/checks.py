"""Checks of a caller's single values: numbers, flags, choices and paths. They load nothing but the standard library."""

from __future__ import annotations

import math
import numbers
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kandinsky_runtime.errors import InputError, UsageError

_LARGEST_FLOAT32 = float(2**128 - 2**104)
_SIZE = re.compile(r"([0-9]{1,15})(?:\.([0-9]{1,3}))?([KMGT])(?:i?B)?", re.IGNORECASE | re.ASCII)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int; numpy's integers count, bools do not.

    Raises:
        UsageError: not a whole number from `least` to `most`.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= least and (most is None or number <= most):
            return number
    span = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise UsageError(f"{name} is {value!r}; expected a whole number {span}")


def real_number(name: str, value: Any, least: float, most: float | None = None, *, exclusive: bool = False) -> float:
    """`value` as a float that float32 can hold; numpy's numbers count, bools do not.

    Raises:
        InputError: not a finite number from `least` to `most`; with `exclusive`, `least` itself is refused, too.
    """
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond any float
            number = math.inf
        if least <= number <= (_LARGEST_FLOAT32 if most is None else most) and not (exclusive and number == least):
            return number
    low = f"above {least:g}" if exclusive else f"of at least {least:g}"
    if most is None:
        raise InputError(f"{name} is {value!r}; expected a finite number {low}")
    raise InputError(f"{name} is {value!r}; expected a number {low} and up to {most:g}")


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; numpy's count.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, bool) or (str(getattr(value, "dtype", "")) == "bool" and getattr(value, "shape", None) == ()):
        return bool(value)
    raise UsageError(f"{name} is {value!r}; expected True or False")


def text(name: str, value: Any) -> str:
    """`value`, if it is a text.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r}; expected a text")
    return value


def choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Check that `value` is one of `choices`.

    Raises:
        UsageError: it is not; lists them.
    """
    if not isinstance(value, str) or value not in choices:
        raise UsageError(f"{name} is {value!r}; choose from {', '.join(choices)}")


def writable_path(name: str, path: Any) -> None:
    """Check, before any work, that a file can be written at `path`.

    Raises:
        InputError: it is no path, or a folder or written as one, or in a folder that does not exist or is not writable.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"{name} is {path!r}; expected the path of a file to write")
    target = Path(path)
    try:
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            target.stat()  # in Python 3.14 and later `is_dir` passes over the OSError that is expected here
        if target.is_dir():
            raise InputError(f"{name} {target} is a directory; add a file name to it")
        if str(path).endswith(("/", os.sep)):  # `Path` drops it
            raise InputError(f"{name} {path} ends in a slash, as a folder does; remove it, or add a file name")
        if not target.parent.is_dir():
            raise InputError(f"{name} {target}: the folder {target.parent} does not exist; create it first")
    except OSError as error:  # the name is too long, or the folder is not accessible
        raise InputError(f"{name} {target} cannot be written: {error.strerror}; choose another path") from error
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{name} {target}: the folder {target.parent} is not writable; choose another one")


def memory_size(name: str, value: int | str) -> int:
    """Bytes from a number of bytes, or from a text such as "2G" or "512M", in units of 1024 as for containers.

    Raises:
        UsageError: it is neither, or not above 0.
    """
    if not isinstance(value, str):
        return whole_number(name, value, 1)
    found = _SIZE.fullmatch(value.strip())
    size = 0
    if found is not None:
        whole, part, unit = found.groups()
        size = int(float(f"{whole}.{part or 0}") * _UNITS[unit.upper()])
    if size < 1:
        raise UsageError(f"{name} is {value!r}; expected a size such as 2G or 512M")
    return size


def boolean(value: Any) -> bool:
    """A truth value, or its text.

    Raises:
        ValueError: it is something else.
    """
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() in known:
        return known[str(value).lower()]
    raise ValueError("expected true or false")

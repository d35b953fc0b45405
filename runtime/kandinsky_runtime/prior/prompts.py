"""What a caller asks for in words and pictures, checked before anything is computed from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from kandinsky_runtime.batch import finite_floats
from kandinsky_runtime.errors import InputError

MAX_CHARACTERS = 100_000  # of one prompt: thousands of times what the text encoder takes


@dataclass(frozen=True)
class Mix:
    """One prompt made of several: the weighted sum of their embeddings.

    Attributes:
        parts: texts and pictures; a picture is an `os.PathLike`, the bytes of a file, a PIL picture or an array.
        weights: a number for each part; they need not add up to 1.
    """

    parts: Sequence[Any]
    weights: Sequence[float]


@dataclass(frozen=True)
class Prompt:
    """A checked prompt.

    Attributes:
        parts: texts, and for a picture its place among the pictures of all prompts.
        weights: the weight of each part.
        plain: whether it is one text, given as such.
    """

    parts: tuple[str | int, ...]
    weights: tuple[float, ...] = (1.0,)
    plain: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """The parts that are texts."""
        return tuple(part for part in self.parts if isinstance(part, str))


def read_prompts(prompt: Any) -> tuple[list[Prompt], list[Any]]:
    """Check a prompt, or a list of them.

    Args:
        prompt: a text; a picture as an `os.PathLike`, the bytes of a file, a PIL picture or an array; a `Mix`; or a
            list of such.

    Returns:
        The prompts, and the different pictures that they name; an object given several times is one picture.

    Raises:
        InputError: it is none of these, empty, or too long.
    """
    items = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    if not items:
        raise InputError("prompt is an empty list; give at least one")
    pictures: list[Any] = []
    return [_read(item, pictures) for item in items], pictures


def read_negative_prompts(negative_prompt: Any, count: int) -> list[str | None]:
    """A negative text for each of `count` prompts; None where the embedding of no picture is to be used.

    Raises:
        InputError: not a text, a list of texts of that length, or None.
    """
    if negative_prompt is None:
        return [None] * count
    items = list(negative_prompt) if isinstance(negative_prompt, (list, tuple)) else [negative_prompt]
    if len(items) not in (1, count):
        raise InputError(f"got {len(items)} negative_prompt for {count} prompts; expected one for all or one for each")
    texts: list[str | None] = [_checked_text("negative_prompt", item) for item in items]
    return texts if len(texts) == count else texts * count


def _read(item: Any, pictures: list[Any]) -> Prompt:
    """A checked prompt; its pictures are added to `pictures`, unless they are there."""
    if isinstance(item, str):
        return Prompt((_checked_text("prompt", item),), plain=True)
    if not isinstance(item, Mix):
        return Prompt((_number(item, pictures),))
    if not isinstance(item.parts, (list, tuple)):
        raise InputError(f"the parts of a mix are a {type(item.parts).__name__}; expected a list of texts and pictures")
    parts, weights = list(item.parts), finite_floats("the weights of a mix", item.weights)
    if any(isinstance(part, Mix) for part in parts):
        raise InputError("a mix is part of another; give all parts to one")
    if not parts or weights.shape != (len(parts),):
        raise InputError(f"a mix has {len(parts)} parts and {weights.size} weights; expected a weight for each part")
    checked = (_checked_text("prompt", part) if isinstance(part, str) else _number(part, pictures) for part in parts)
    return Prompt(tuple(checked), tuple(weights.tolist()))


def _number(item: Any, pictures: list[Any]) -> int:
    """The place of a picture in `pictures`, where it is added if it is new."""
    if not isinstance(item, (os.PathLike, bytes, Image.Image, np.ndarray)):
        raise InputError(f"prompt is a {type(item).__name__}; expected a text, a picture, a Mix, or a list of them")
    for number, picture in enumerate(pictures):
        if picture is item:
            return number
    pictures.append(item)
    return len(pictures) - 1


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is a {type(value).__name__}; expected a text")
    if len(value) > MAX_CHARACTERS:
        raise InputError(f"{name} has {len(value):,} characters; expected at most {MAX_CHARACTERS:,}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} has a character that is none, {value[error.start]!r} at {error.start}") from error
    return value

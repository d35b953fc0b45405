"""Prompts: texts, pictures and mixes of both, checked before the run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from kandinsky_runtime.batch import finite_floats
from kandinsky_runtime.errors import InputError

MAX_CHARACTERS = 100_000
"""The most characters of one text: thousands of times the text encoder's maximum."""


@dataclass(frozen=True)
class Mix:
    """One prompt from several texts and pictures: the weighted sum of their embeddings.

    Attributes:
        parts: texts and pictures; a picture is an `os.PathLike`, the bytes of a file, a PIL picture or an array.
        weights: a number for each part; the sum need not be 1.
    """

    parts: Sequence[Any]
    weights: Sequence[float]


@dataclass(frozen=True)
class Prompt:
    """A checked prompt.

    Attributes:
        parts: the texts; for a picture, its index among the pictures of all prompts.
        weights: the weight of each part.
        plain: whether the prompt was given as a text, not as a mix.
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
            list of these.

    Returns:
        The prompts, and their different pictures. An object that occurs several times is one picture.

    Raises:
        InputError: a prompt has another type or is too long, or the list is empty.
    """
    items = list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]
    if not items:
        raise InputError("prompt is an empty list; give at least one")
    pictures: list[Any] = []
    return [_read(item, pictures) for item in items], pictures


def read_negative_prompts(negative_prompt: Any, count: int) -> list[str | None]:
    """A negative text for each of `count` prompts, or None for the embedding of no picture.

    Raises:
        InputError: the value is not a text, a list of one text or of `count` texts, or None.
    """
    if negative_prompt is None:
        return [None] * count
    items = list(negative_prompt) if isinstance(negative_prompt, (list, tuple)) else [negative_prompt]
    if len(items) not in (1, count):
        raise InputError(f"got {len(items)} negative_prompt for {count} prompts; expected one for all or one for each")
    texts: list[str | None] = [_checked_text("negative_prompt", item) for item in items]
    return texts if len(texts) == count else texts * count


def _read(item: Any, pictures: list[Any]) -> Prompt:
    """A checked prompt; new pictures are added to `pictures`."""
    if isinstance(item, str):
        return Prompt((_checked_text("prompt", item),), plain=True)
    if not isinstance(item, Mix):
        return Prompt((_picture_index(item, pictures),))
    if not isinstance(item.parts, (list, tuple)):
        raise InputError(f"the parts of a mix are a {type(item.parts).__name__}; expected a list of texts and pictures")
    parts, weights = list(item.parts), finite_floats("the weights of a mix", item.weights)
    if any(isinstance(part, Mix) for part in parts):
        raise InputError("a mix contains another mix; put all parts into one mix")
    if not parts or weights.shape != (len(parts),):
        raise InputError(f"a mix has {len(parts)} parts and {weights.size} weights; expected a weight for each part")
    checked = (
        _checked_text("prompt", part) if isinstance(part, str) else _picture_index(part, pictures) for part in parts
    )
    return Prompt(tuple(checked), tuple(weights.tolist()))


def _picture_index(item: Any, pictures: list[Any]) -> int:
    """The index of a picture in `pictures`; a new picture is added."""
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
        raise InputError(
            f"{name} has half a surrogate pair, {value[error.start]!r}, at character {error.start + 1}; expected valid"
            " Unicode"
        ) from error
    return value

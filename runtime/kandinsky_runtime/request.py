"""What every run of the UNet works on, whatever it makes: embeddings, guidance, seeds, and first latents.

Legend: B samples · C latent channels · h, w latent height and width · E embedding width
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime import guidance
from kandinsky_runtime.checks import finite_floats, whole_number
from kandinsky_runtime.embeds import as_embeds
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.geometry import Geometry
from kandinsky_runtime.image import MAX_PIXELS

Array = npt.NDArray[np.float32]

MIN_SIZE = 64
MAX_SEED = 2**64 - 1
MAX_RESULTS = 1024  # of one run: the UNet works on all of them at once


@dataclass(frozen=True)
class SampleRequest:
    """What one run of the UNet works on; every array is float32.

    Attributes:
        image_embeds, negative_image_embeds: (B, E); the latter is empty without guidance, and both are where a prior
            makes them first.
        guidance_scale: weight of the guidance; 1 and below: none.
        seeds: one for each sample.
        latents: initial noise (B, C, h, w), or None to draw it.
        latent_shape: (B, C, h, w).
    """

    image_embeds: Array
    negative_image_embeds: Array
    guidance_scale: float
    seeds: tuple[int, ...]
    latents: Array | None
    latent_shape: tuple[int, int, int, int]

    @property
    def batch(self) -> int:
        """B."""
        return self.latent_shape[0]

    @property
    def guided(self) -> bool:
        """Whether the UNet runs on [negative, positive] halves."""
        return guidance.is_guided(self.guidance_scale)

    def checked_latents(self, latents: npt.ArrayLike) -> Array:
        """Latents from a callback as a float32 array of this request's shape, a copy.

        Raises:
            InputError: another shape, not numeric, or not finite.
        """
        return as_latents("latents from callback_on_step_end", latents, self.latent_shape)


def as_list(name: str, value: Any) -> list[Any]:
    """What was given once, or as a list or tuple, as a list.

    Raises:
        InputError: it is empty.
    """
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise InputError(f"{name} is an empty list; give at least one")
    return items


def check_embeds(
    positive: npt.ArrayLike | None, negative: npt.ArrayLike | None, width: int, scale: float
) -> tuple[Array, Array]:
    """Image embeddings and negative ones, (N, E) and (M, E); the latter are empty without guidance.

    Raises:
        InputError: they are needed and not given, or cannot be used.
    """
    checked = as_embeds(positive, "image_embeds", width)
    if not guidance.is_guided(scale):
        return checked, np.empty((0, width), np.float32)
    if negative is None:
        raise InputError(
            f"guidance_scale is {scale:g}, which needs negative_image_embeds: give them, or a guidance_scale of 1"
        )
    return checked, as_embeds(negative, "negative_image_embeds", width)


def check_lengths(prompts: int, **inputs: Sized) -> None:
    """Each input has one entry for all or one for each of `prompts`; none at all is left out.

    Raises:
        InputError: names every input's length.
    """
    lengths = {name: len(value) for name, value in inputs.items() if len(value)}
    if any(length not in (1, prompts) for length in lengths.values()):
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"got {listed}; expected one for all or one for each of {prompts}")


def per_sample(items: npt.NDArray[Any], prompts: int, repeats: int) -> npt.NDArray[Any]:
    """One entry for each sample: what was given once serves all, and each is repeated `repeats` times in a row."""
    return np.repeat(np.broadcast_to(items, (prompts, *items.shape[1:])), repeats, axis=0)


def embeds_per_sample(embeds: Array, prompts: int, repeats: int) -> Array:
    """`per_sample`, and nothing where there are none."""
    return per_sample(embeds, prompts, repeats) if len(embeds) else embeds


def seeds_for(seed: Any, batch: int) -> tuple[int, ...]:
    """A seed for each of `batch` results, from one number, one for each, or None to draw them.

    Raises:
        InputError: a list of another length.
        UsageError: not a whole number, or out of range.
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
    """Latents as a float32 array of `shape`, a copy.

    Raises:
        InputError: another shape, not numeric, or not finite.
    """
    array = finite_floats(name, latents)
    if array.shape != shape:
        raise InputError(f"{name}: the shape is {array.shape}; this run takes {shape}")
    return array


def padding_for(geometry: Geometry, height: int, width: int) -> tuple[int, int]:
    """Rows and columns that a picture lacks to a size that the graphs take.

    Raises:
        InputError: the padded picture would have too many pixels.
    """
    bottom, right = -height % geometry.multiple, -width % geometry.multiple
    if (height + bottom) * (width + right) > MAX_PIXELS:
        raise InputError(f"the result would be {width}x{height} pixels; expected at most {MAX_PIXELS:,} in all")
    return bottom, right


def picture_size(sizes: Sequence[tuple[int, int]], height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the result: those asked for, else the pictures' own.

    Args:
        sizes: (width, height) of the pictures.

    Raises:
        InputError: the pictures' sizes differ or are too small, and no size is given.
        UsageError: a size that cannot be meant.
    """
    different = sorted(set(sizes))
    if len(different) > 1 and (height is None or width is None):
        listed = ", ".join(f"{across}x{down}" for across, down in different)
        raise InputError(f"the pictures have several sizes ({listed}); give height and width")
    own_width, own_height = different[0]
    if (height is None and own_height < MIN_SIZE) or (width is None and own_width < MIN_SIZE):
        raise InputError(
            f"the picture is {own_width}x{own_height} pixels; results have at least {MIN_SIZE}x{MIN_SIZE}: give height"
            " and width"
        )
    return (
        own_height if height is None else whole_number("height", height, MIN_SIZE),
        own_width if width is None else whole_number("width", width, MIN_SIZE),
    )

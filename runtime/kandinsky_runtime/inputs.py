"""A caller's pictures, masks, embeddings and seeds become one checked request, before any graph runs.

Legend: B samples · U different pictures · C latent channels · h, w latent height and width
        H, W height and width padded to what the graphs take · E embedding width
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime import guidance
from kandinsky_runtime.checks import finite_floats, flag, whole_number
from kandinsky_runtime.embeds import as_embeds
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.geometry import Geometry as Geometry
from kandinsky_runtime.image import MAX_PIXELS, fit, pad_to_multiple, read_image, to_model
from kandinsky_runtime.mask import fit_mask, is_all_keep, latent_keep_mask, read_mask

Array = npt.NDArray[np.float32]

MIN_SIZE = 64
MAX_SEED = 2**64 - 1
MAX_RESULTS = 1024  # of one run: the UNet works on all of them at once


@dataclass(frozen=True)
class Request:
    """What one run works on; every array is float32.

    Attributes:
        pictures: U RGB pictures of the result's size; `picture_of` tells which of them a sample has.
        pixels: (U, 3, H, W) in [-1, 1], padded.
        masks: (B, height, width), 1 to repaint, 0 to keep.
        keep: (B, 1, h, w), 1 to keep, on the latent grid.
        image_embeds, negative_image_embeds: (B, E); the latter is empty without guidance.
        guidance_scale: weight of the guidance; 1 and below: none.
        seeds: one for each sample.
        latents: initial noise (B, C, h, w), or None to draw it.
        latent_shape: (B, C, h, w).
        notes: what the user should know, one sentence each.
    """

    pictures: tuple[Image.Image, ...]
    picture_of: tuple[int, ...]
    pixels: Array
    masks: Array
    keep: Array
    image_embeds: Array
    negative_image_embeds: Array
    guidance_scale: float
    seeds: tuple[int, ...]
    latents: Array | None
    latent_shape: tuple[int, int, int, int]
    notes: tuple[str, ...]

    @property
    def batch(self) -> int:
        """B."""
        return len(self.picture_of)

    @property
    def height(self) -> int:
        """Of the result, in pixels."""
        return int(self.masks.shape[1])

    @property
    def width(self) -> int:
        """Of the result, in pixels."""
        return int(self.masks.shape[2])

    @property
    def guided(self) -> bool:
        """Whether the UNet runs on [negative, positive] halves."""
        return guidance.is_guided(self.guidance_scale)

    @property
    def keeps_everything(self) -> bool:
        """Whether no mask has anything to repaint."""
        return is_all_keep(self.masks)

    @property
    def originals(self) -> list[Image.Image]:
        """The picture of each sample."""
        return [self.pictures[index] for index in self.picture_of]

    def checked_latents(self, latents: npt.ArrayLike) -> Array:
        """Latents from a callback as a float32 array of this request's shape, a copy.

        Raises:
            InputError: another shape, not numeric, or not finite.
        """
        return _as_latents("latents from callback_on_step_end", latents, self.latent_shape)


def prepare(
    geometry: Geometry,
    *,
    image: Any,
    mask_image: Any,
    image_embeds: npt.ArrayLike,
    negative_image_embeds: npt.ArrayLike | None,
    height: int | None,
    width: int | None,
    guidance_scale: float,
    num_images_per_prompt: int,
    seed: int | Sequence[int] | npt.NDArray[np.integer[Any]] | None,
    latents: npt.ArrayLike | None,
    invert_mask: bool,
) -> Request:
    """Check a caller's inputs and bring them to the shapes of the loop; see `InpaintPipeline.__call__`.

    Raises:
        InputError: names the input, what was got, and what is expected.
        UsageError: the same for an option.
    """
    scale = guidance.check_scale(guidance_scale)
    repeats = whole_number("num_images_per_prompt", num_images_per_prompt, 1, MAX_RESULTS)
    invert = flag("invert_mask", invert_mask)
    images, mask_images = _as_list("image", image), _as_list("mask_image", mask_image)
    positive = as_embeds(image_embeds, "image_embeds", geometry.embed_width)
    negative = _negative(negative_image_embeds, geometry.embed_width, scale)
    prompts = max(len(images), len(mask_images), len(positive))
    _check_lengths(prompts, image=images, mask_image=mask_images, image_embeds=positive, negative_image_embeds=negative)
    batch = whole_number("the number of results", prompts * repeats, 1, MAX_RESULTS)
    seeds = _seeds(seed, batch)

    read = [read_image(source) for source in images]
    rows, columns = _result_size(read, height, width)
    bottom, right = -rows % geometry.multiple, -columns % geometry.multiple
    if (rows + bottom) * (columns + right) > MAX_PIXELS:
        raise InputError(f"the result would be {columns}x{rows} pixels; expected at most {MAX_PIXELS:,} in all")
    grid = (rows + bottom) // geometry.factor, (columns + right) // geometry.factor
    shape = (batch, geometry.channels, *grid)
    initial = None if latents is None else _as_latents("latents", latents, shape)

    pictures = tuple(fit(picture, width=columns, height=rows) for picture in read)
    fitted = [fit_mask(read_mask(source, invert=invert), width=columns, height=rows) for source in mask_images]
    masks = _per_sample(np.stack(fitted), prompts, repeats)
    # Like the picture's, the mask's padding repeats the edge: beside repainted pixels there is nothing to keep.
    keep = latent_keep_mask(np.pad(masks, ((0, 0), (0, bottom), (0, right)), mode="edge"), *grid)
    return Request(
        pictures=pictures,
        picture_of=tuple(_per_sample(np.arange(len(pictures)), prompts, repeats).tolist()),
        pixels=pad_to_multiple(to_model(pictures), geometry.multiple),
        masks=masks,
        keep=keep,
        image_embeds=_per_sample(positive, prompts, repeats),
        negative_image_embeds=_per_sample(negative, prompts, repeats) if len(negative) else negative,
        guidance_scale=scale,
        seeds=seeds,
        latents=initial,
        latent_shape=shape,
        notes=_notes(masks, keep),
    )


def _as_list(name: str, value: Any) -> list[Any]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise InputError(f"{name} is an empty list; give at least one")
    return items


def _negative(value: npt.ArrayLike | None, width: int, scale: float) -> Array:
    if not guidance.is_guided(scale):
        return np.empty((0, width), np.float32)
    if value is None:
        raise InputError(
            f"guidance_scale is {scale:g}, which needs negative_image_embeds: give them, or a guidance_scale of 1"
        )
    return as_embeds(value, "negative_image_embeds", width)


def _check_lengths(prompts: int, **inputs: Sized) -> None:
    """Each input has one entry for all or one for each of `prompts`; none at all is left out."""
    lengths = {name: len(value) for name, value in inputs.items() if len(value)}
    if any(length not in (1, prompts) for length in lengths.values()):
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"got {listed}; expected one for all or one for each of {prompts}")


def _per_sample(items: npt.NDArray[Any], prompts: int, repeats: int) -> npt.NDArray[Any]:
    """One entry for each sample: what was given once serves all, and each is repeated `repeats` times in a row."""
    return np.repeat(np.broadcast_to(items, (prompts, *items.shape[1:])), repeats, axis=0)


def _result_size(pictures: list[Image.Image], height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of the result."""
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1 and (height is None or width is None):
        listed = ", ".join(f"{across}x{down}" for across, down in sizes)
        raise InputError(f"the pictures have several sizes ({listed}); give height and width")
    own_width, own_height = sizes[0]
    if (height is None and own_height < MIN_SIZE) or (width is None and own_width < MIN_SIZE):
        raise InputError(
            f"the picture is {own_width}x{own_height} pixels; results have at least {MIN_SIZE}x{MIN_SIZE}: give height"
            " and width"
        )
    return (
        own_height if height is None else whole_number("height", height, MIN_SIZE),
        own_width if width is None else whole_number("width", width, MIN_SIZE),
    )


def _seeds(seed: Any, batch: int) -> tuple[int, ...]:
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


def _as_latents(name: str, latents: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    array = finite_floats(name, latents)
    if array.shape != shape:
        raise InputError(f"{name}: the shape is {array.shape}; this run takes {shape}")
    return array


def _notes(masks: Array, keep: Array) -> tuple[str, ...]:
    if is_all_keep(masks):
        return ("the mask has nothing to repaint: the picture is returned as it is",)
    paints = masks.any(axis=(1, 2))  # (B,)
    generates = ~keep.all(axis=(1, 2, 3))  # (B,)
    notes = []
    if not paints.all():
        notes.append(f"the mask of {_results(~paints)} has nothing to repaint")
    if (missed := paints & ~generates).any():
        notes.append(
            f"the mask of {_results(missed)} is so small that it falls between the latent cells: nothing is generated"
            " for it"
        )
    return tuple(notes)


def _results(chosen: npt.NDArray[np.bool_]) -> str:
    numbers = [str(index + 1) for index in np.flatnonzero(chosen)]
    return f"result{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} of {len(chosen)}"

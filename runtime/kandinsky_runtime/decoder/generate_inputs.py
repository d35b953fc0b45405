"""A caller's embeddings, pictures and seeds for text-to-image and image-to-image become one checked request.

Legend: B samples · U different pictures · C latent channels · h, w latent height and width
        H, W height and width padded to what the graphs take · E embedding width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.batch import as_latents, as_list, check_lengths, per_sample, seeds_for
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.decoder.request import SampleRequest, check_embeds, embeds_per_sample
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_RESULTS
from kandinsky_runtime.pictures.image import fit, pad_to_multiple, read_image, to_model
from kandinsky_runtime.pictures.sizes import padding_for, picture_size
from kandinsky_runtime.sampling import guidance

Array = npt.NDArray[np.float32]

STRENGTH = 0.3  # as the reference's
SIDE = 512  # of a result without a picture, as the reference's


@dataclass(frozen=True)
class GenerateRequest(SampleRequest):
    """What one run of text-to-image or image-to-image works on; every array is float32.

    Attributes:
        pixels: (U, 3, H, W) in [-1, 1], padded; empty for text-to-image.
        picture_of: which of them a sample has.
        height, width: of the result, in pixels.
    """

    pixels: Array
    picture_of: tuple[int, ...]
    height: int
    width: int


def first_step(steps: int, strength: float | None, image: Any) -> int:
    """The step that image-to-image begins with, from 0: it takes the last int(steps · strength), as the reference.

    Raises:
        InputError: a strength that cannot be used, or with which no step is left; or one without a picture.
    """
    if image is None:
        if strength is not None:
            raise InputError("strength goes with a picture to change; give image, or leave strength out")
        return 0
    value = STRENGTH if strength is None else strength
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:
        raise InputError(f"strength is {value!r}; expected a number above 0 and up to 1")
    taken = int(steps * float(value))
    if taken < 1:
        raise InputError(f"strength {value:g} of {steps} steps leaves none; give more of either")
    return steps - taken


def prepare(
    geometry: Geometry,
    *,
    image: Any,
    image_embeds: npt.ArrayLike | None,
    negative_image_embeds: npt.ArrayLike | None,
    height: int | None,
    width: int | None,
    guidance_scale: float,
    num_images_per_prompt: int,
    seed: int | Sequence[int] | npt.NDArray[np.integer[Any]] | None,
    latents: npt.ArrayLike | None,
    prompt_count: int = 0,
) -> GenerateRequest:
    """Check a caller's inputs and bring them to the shapes of the loop; see `GeneratePipeline.__call__`.

    `prompt_count` prompts, where it is not 0, take the place of the embeddings, which a prior makes afterwards.

    Raises:
        InputError: names the input, what was got, and what is expected.
        UsageError: the same for an option.
    """
    scale = guidance.check_scale(guidance_scale)
    repeats = whole_number("num_images_per_prompt", num_images_per_prompt, 1, MAX_RESULTS)
    images = [] if image is None else as_list("image", image)
    positive = negative = np.empty((0, geometry.embed_width), np.float32)
    if not prompt_count:
        positive, negative = check_embeds(image_embeds, negative_image_embeds, geometry.embed_width, scale)
    prompts = max(len(images), len(positive), prompt_count)
    check_lengths(
        prompts, image=images, image_embeds=positive, negative_image_embeds=negative, prompt=range(prompt_count)
    )
    batch = whole_number("the number of results", prompts * repeats, 1, MAX_RESULTS)
    seeds = seeds_for(seed, batch)

    read = [read_image(source) for source in images]
    rows, columns = picture_size([item.size for item in read] or [(SIDE, SIDE)], height, width)
    bottom, right = padding_for(geometry, rows, columns)
    shape = (batch, geometry.channels, (rows + bottom) // geometry.factor, (columns + right) // geometry.factor)
    pixels = np.empty((0, 3, rows + bottom, columns + right), np.float32)
    if read:
        fitted = [fit(picture, width=columns, height=rows) for picture in read]
        pixels = pad_to_multiple(to_model(fitted), geometry.multiple)
    return GenerateRequest(
        image_embeds=embeds_per_sample(positive, prompts, repeats),
        negative_image_embeds=embeds_per_sample(negative, prompts, repeats),
        guidance_scale=scale,
        seeds=seeds,
        latents=None if latents is None else as_latents("latents", latents, shape),
        latent_shape=shape,
        pixels=pixels,
        picture_of=tuple(per_sample(np.arange(len(read)), prompts, repeats).tolist()) if read else (),
        height=rows,
        width=columns,
    )

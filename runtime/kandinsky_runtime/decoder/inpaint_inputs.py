"""A caller's pictures, masks, embeddings and seeds become one checked request, before any graph runs.

Legend: B samples · U different pictures · C latent channels · h, w latent height and width
        H, W height and width padded to what the graphs take · E embedding width
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.batch import as_latents, as_list, check_lengths, per_sample, seeds_for
from kandinsky_runtime.bundle.geometry import Geometry as Geometry
from kandinsky_runtime.checks import flag, whole_number
from kandinsky_runtime.decoder.request import SampleRequest, check_embeds, embeds_per_sample
from kandinsky_runtime.limits import MAX_RESULTS
from kandinsky_runtime.pictures.image import fit, pad_to_multiple, read_image, to_model
from kandinsky_runtime.pictures.mask import fit_mask, is_all_keep, latent_keep_mask, read_mask
from kandinsky_runtime.pictures.sizes import padding_for, picture_size
from kandinsky_runtime.sampling import guidance

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Request(SampleRequest):
    """What one run of inpainting works on; every array is float32.

    Attributes:
        pictures: U RGB pictures of the result's size; `picture_of` tells which of them a sample has.
        pixels: (U, 3, H, W) in [-1, 1], padded.
        masks: (B, height, width), 1 to repaint, 0 to keep.
        keep: (B, 1, h, w), 1 to keep, on the latent grid.
        notes: what the user should know, one sentence each.
    """

    pictures: tuple[Image.Image, ...]
    picture_of: tuple[int, ...]
    pixels: Array
    masks: Array
    keep: Array
    notes: tuple[str, ...]

    @property
    def height(self) -> int:
        """Of the result, in pixels."""
        return int(self.masks.shape[1])

    @property
    def width(self) -> int:
        """Of the result, in pixels."""
        return int(self.masks.shape[2])

    @property
    def keeps_everything(self) -> bool:
        """Whether no mask has anything to repaint."""
        return is_all_keep(self.masks)

    @property
    def originals(self) -> list[Image.Image]:
        """The picture of each sample."""
        return [self.pictures[index] for index in self.picture_of]


def prepare(
    geometry: Geometry,
    *,
    image: Any,
    mask_image: Any,
    image_embeds: npt.ArrayLike | None,
    negative_image_embeds: npt.ArrayLike | None,
    height: int | None,
    width: int | None,
    guidance_scale: float,
    num_images_per_prompt: int,
    seed: int | Sequence[int] | npt.NDArray[np.integer[Any]] | None,
    latents: npt.ArrayLike | None,
    invert_mask: bool,
    prompt_count: int = 0,
) -> Request:
    """Check a caller's inputs and bring them to the shapes of the loop; see `InpaintPipeline.__call__`.

    `prompt_count` prompts, where it is not 0, take the place of the embeddings, which a prior makes afterwards.

    Raises:
        InputError: names the input, what was got, and what is expected.
        UsageError: the same for an option.
    """
    scale = guidance.check_scale(guidance_scale)
    repeats = whole_number("num_images_per_prompt", num_images_per_prompt, 1, MAX_RESULTS)
    invert = flag("invert_mask", invert_mask)
    images, mask_images = as_list("image", image), as_list("mask_image", mask_image)
    positive = negative = np.empty((0, geometry.embed_width), np.float32)
    if not prompt_count:
        positive, negative = check_embeds(image_embeds, negative_image_embeds, geometry.embed_width, scale)
    prompts = max(len(images), len(mask_images), len(positive), prompt_count)
    check_lengths(
        prompts,
        image=images,
        mask_image=mask_images,
        image_embeds=positive,
        negative_image_embeds=negative,
        prompt=range(prompt_count),
    )
    batch = whole_number("the number of results", prompts * repeats, 1, MAX_RESULTS)
    seeds = seeds_for(seed, batch)

    read = [read_image(source) for source in images]
    rows, columns = picture_size([picture.size for picture in read], height, width)
    bottom, right = padding_for(geometry, rows, columns)
    grid = (rows + bottom) // geometry.factor, (columns + right) // geometry.factor
    shape = (batch, geometry.channels, *grid)
    initial = None if latents is None else as_latents("latents", latents, shape)

    pictures = tuple(fit(picture, width=columns, height=rows) for picture in read)
    fitted = [fit_mask(read_mask(source, invert=invert), width=columns, height=rows) for source in mask_images]
    masks = per_sample(np.stack(fitted), prompts, repeats)
    # Like the picture's, the mask's padding repeats the edge: beside repainted pixels there is nothing to keep.
    keep = latent_keep_mask(np.pad(masks, ((0, 0), (0, bottom), (0, right)), mode="edge"), *grid)
    return Request(
        pictures=pictures,
        picture_of=tuple(per_sample(np.arange(len(pictures)), prompts, repeats).tolist()),
        pixels=pad_to_multiple(to_model(pictures), geometry.multiple),
        masks=masks,
        keep=keep,
        image_embeds=embeds_per_sample(positive, prompts, repeats),
        negative_image_embeds=embeds_per_sample(negative, prompts, repeats),
        guidance_scale=scale,
        seeds=seeds,
        latents=initial,
        latent_shape=shape,
        notes=_notes(masks, keep),
    )


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

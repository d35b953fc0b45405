"""Inpainting's pictures, masks, embeddings and seeds become one checked request, before any graph runs.

Legend: B samples · C latent channels · h, w latent height and width · H, W working height and width in pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.batch import as_list
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.inpaint_sources import MaskReport, Sources
from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.decoder.parts import shared_area_notes
from kandinsky_runtime.decoder.request import Request, Samples
from kandinsky_runtime.pictures.area import Areas, around_masks, whole_pictures
from kandinsky_runtime.pictures.mask import is_all_keep, largest_value, latent_keep_mask
from kandinsky_runtime.pictures.sizes import padding_for, stretching
from kandinsky_runtime.sampling.schedulers import Sampler

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class InpaintRequest(Request):
    """The checked inputs of one run of inpainting; every array is float32.

    Attributes:
        areas: the part of each picture that is worked on.
        composite: "paste", "blend" or "none", see `InpaintOptions`.
        masks: (B, H, W), 1 to repaint, 0 to keep.
        keep: (B, 1, h, w), 1 to keep, on the latent grid.
        reports: what was understood of the mask of each of B samples.
    """

    areas: Areas
    composite: str
    masks: Array
    keep: Array
    reports: tuple[MaskReport, ...] = ()

    @property
    def result_sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes of the whole pictures; see `Request.result_sizes`."""
        return tuple(dict.fromkeys(area.picture.size for area in self.areas.areas))

    @property
    def keeps_everything(self) -> bool:
        """Whether no mask has anything to repaint."""
        return is_all_keep(self.masks)

    def begin(self, noise: Array, encoded: Array, sampler: Sampler) -> tuple[Array, KeptArea | None]:
        """Noise, and the pictures' latents outside the masks; see `Request.begin`."""
        kept = KeptArea(encoded, self.keep, noise, sampler)
        return noise * np.float32(sampler.init_noise_sigma), kept

    def finished(self, decoded: Array, output_type: str) -> list[Image.Image] | Array:
        """The whole pictures with their areas repainted; see `Request.finished`."""
        return self.areas.finished(decoded, output_type, self.composite)

    def untouched(self, output_type: str) -> list[Image.Image] | Array:
        """Copies of the whole pictures, so that no two results are one object."""
        return self.areas.unchanged(self.batch, output_type)


def prepare_inpaint(geometry: Geometry, options: InpaintOptions, prompt_count: int = 0) -> InpaintRequest:
    """Check a run's inputs and bring them to the shapes of the loop.

    Args:
        geometry: the bundle's.
        options: the run's.
        prompt_count: prompts whose embeddings a prior makes afterwards; 0 if embeddings are given.

    Raises:
        InputError: an input that cannot be used; the message says what was got and what is expected.
        UsageError: the same for an option.
    """
    images = as_list("image", options.image)
    mask_images = as_list("mask_image", options.mask_image) if options.mask_image is not None else []
    samples = Samples.of(geometry, options, prompt_count, image=images, mask_image=mask_images)
    sources = Sources.read(options, images, mask_images)
    pictures, masks = sources.pictures, sources.masks
    stretched: list[str] = []
    blur = (options.mask_blur or 0) if options.composite == "blend" else None
    if options.inpaint_area == "mask":
        areas = around_masks(
            pictures,
            masks,
            multiple=geometry.multiple,
            height=options.height,
            width=options.width,
            padding=options.padding_mask_crop,
            blur=blur,
            max_pixels=options.max_pixels,
        )
    else:
        areas = whole_pictures(
            pictures, masks, height=options.height, width=options.width, blur=blur, max_pixels=options.max_pixels
        )
        stretched = stretching([picture.size for picture in pictures], areas.working)
    areas.check_output_type(options.output_type)
    width, height = areas.working
    crops, crop_of = areas.crops()
    common = samples.common(geometry, options, crops, crop_of, height, width)
    repainted = samples.spread(areas.masks())  # (B, H, W)
    bottom, right = padding_for(geometry, height, width, options.max_pixels)
    # Like the picture's, the mask's padding repeats the edge: next to repainted pixels there is nothing to keep.
    padded = np.pad(repainted, ((0, 0), (0, bottom), (0, right)), mode="edge")
    keep = latent_keep_mask(padded, *common["latent_shape"][2:])
    reports = sources.reports(areas.areas)
    shared = shared_area_notes(geometry, options, areas)
    return InpaintRequest(
        **common,
        areas=areas,
        composite=options.composite,
        masks=repainted,
        keep=keep,
        reports=tuple(report for report in reports for _ in range(samples.repeats * samples.prompts // len(reports))),
        notes=(*sources.notes, *stretched, *shared, *_notes(repainted, keep, [largest_value(mask) for mask in masks])),
        understood=tuple(dict.fromkeys(str(report) for report in reports)),
    )


def _notes(masks: Array, keep: Array, largest: Sequence[int]) -> tuple[str, ...]:
    """Notes on masks that repaint nothing, or are too small; `largest` has the largest value of each mask."""
    if is_all_keep(masks):
        return (
            f"the mask has nothing to repaint, its largest value is {max(largest)} of 255: the picture is returned as"
            " it is",
        )
    paints = masks.any(axis=(1, 2))  # (B,)
    generates = ~keep.all(axis=(1, 2, 3))  # (B,)
    notes = []
    if not paints.all():
        repeats = len(masks) // len(largest)
        values = ", ".join(str(value) for value in np.repeat(largest, repeats)[~paints])
        notes.append(f"the mask of {_results(~paints)} has nothing to repaint: largest value {values} of 255")
    if (missed := paints & ~generates).any():
        notes.append(
            f"the mask of {_results(missed)} is so small that it falls between the latent cells: nothing is generated"
            " for it"
        )
    return tuple(notes)


def _results(chosen: npt.NDArray[np.bool_]) -> str:
    numbers = [str(index + 1) for index in np.flatnonzero(chosen)]
    return f"result{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} of {len(chosen)}"

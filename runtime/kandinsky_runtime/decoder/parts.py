"""A mask of separate parts: one run for each, one after the other, and their areas in one picture.

Each part is the run that it would be by itself, with the same seeds, on the same picture. The areas do not overlap.

Legend: K parts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from kandinsky_runtime.batch import as_list
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.inpaint_sources import MaskReport, Sources
from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.pictures.area import Areas
from kandinsky_runtime.pictures.boxes import Box, Size, planned_box
from kandinsky_runtime.pictures.clusters import Bools, clusters
from kandinsky_runtime.pictures.image import Picture, read_picture
from kandinsky_runtime.pictures.mask import Mask, fit_weights, understand_mask


def parts_of(geometry: Geometry, options: InpaintOptions) -> tuple[list[InpaintOptions], Sources | None]:
    """The options of K runs, one for each separate part of the mask; the sources are None for a single run.

    A batch of several pictures or masks, noise or latents of the caller's, and latents as results make a single run.

    Raises:
        InputError: the picture or the mask cannot be read.
    """
    if options.inpaint_area != "mask" or not _can_be_parted(options):
        return [options], None
    options = replace(options, image=read_picture(as_list("image", options.image)[0], max_pixels=options.max_pixels))
    if options.mask_image is not None:
        mask = understand_mask(
            as_list("mask_image", options.mask_image)[0], mode=options.mask_mode, max_pixels=options.max_pixels
        )
        options = replace(options, mask_image=mask)
    sources = Sources.read(options, [options.image], [] if options.mask_image is None else [options.mask_image])
    ((picture,), (mask_image,)) = sources.pictures, sources.masks
    levels = fit_weights(mask_image, *picture.size)
    changed = levels * 255 >= 128
    if options.composite == "blend":
        changed = changed | (fit_weights(mask_image, *picture.size, options.mask_blur or 0) > 0)

    found = _separate(geometry, options, changed, picture.size)
    if len(found) < 2:
        return [options], None
    plain = replace(options, image=Picture(picture), expand=None, invert_mask=False)
    masks = [Image.fromarray(np.rint(levels * part * 255).astype(np.uint8)) for part in found]
    return [replace(plain, mask_image=Mask(image, sources.rules[0])) for image in masks], sources


def shared_area_notes(geometry: Geometry, options: InpaintOptions, areas: Areas) -> tuple[str, ...]:
    """A note if a mask has separate parts whose run has one area for all of them, see `parts_of`."""
    if options.inpaint_area != "mask" or _can_be_parted(options):
        return ()
    shared = sum(
        len(_separate(geometry, options, area.changed, area.picture.size, area.box[:2])) > 1 for area in areas.areas
    )
    if not shared:
        return ()
    return (
        f"{shared} of {len(areas.areas)} masks {'has' if shared == 1 else 'have'} separate parts, which share one area:"
        " areas of their own are for a single picture and mask, without noise or latents that go in or out",
    )


def put_together(results: Sequence[Any], boxes: Sequence[Box], output_type: str) -> Any:
    """The results of K runs in one: the first one's, with the boxes of the others."""
    whole = results[0]
    for part, (left, top, right, bottom) in zip(results[1:], boxes[1:], strict=True):
        if output_type == "np":
            whole[:, top:bottom, left:right] = part[:, top:bottom, left:right]
            continue
        for image, other in zip(whole, part, strict=True):
            image.paste(other.crop((left, top, right, bottom)), (left, top))
    return whole


def put_reports_together(reports: Sequence[Sequence[MaskReport]], sources: Sources) -> tuple[MaskReport, ...]:
    """What was understood of the mask of each sample, from the reports of K runs."""
    return tuple(
        MaskReport(sources.rules[0], sources.inverted, sum(report.repainted for report in of_sample))
        for of_sample in zip(*reports, strict=True)
    )


def _separate(
    geometry: Geometry, options: InpaintOptions, changed: Bools, size: Size, origin: tuple[int, int] = (0, 0)
) -> list[Bools]:
    """The parts of a mask that get an area each, see `clusters`; `changed` begins at `origin` in the picture."""
    left, top = origin

    def plan(bounds: Box) -> Box:
        return planned_box(
            (bounds[0] + left, bounds[1] + top, bounds[2] + left, bounds[3] + top),
            size,
            multiple=geometry.multiple,
            height=options.height,
            width=options.width,
            padding=options.padding_mask_crop,
        )

    return clusters(changed, plan)


def _can_be_parted(options: InpaintOptions) -> bool:
    single = all(
        not isinstance(source, (list, tuple)) or len(source) == 1 for source in (options.image, options.mask_image)
    )
    own_noise = isinstance(options.noise, str) and options.record_noise is None and options.latents is None
    return single and own_noise and options.output_type != "latent"

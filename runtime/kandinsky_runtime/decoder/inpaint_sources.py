"""The pictures and masks of a run of inpainting: read, brought together, and what was understood of them.

Legend: N pairs of picture and mask · B samples
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from PIL import Image, ImageOps

from kandinsky_runtime.decoder.options import InpaintOptions
from kandinsky_runtime.pictures.area import Area
from kandinsky_runtime.pictures.expand import Edges, expanded, expanded_mask
from kandinsky_runtime.pictures.image import Picture, read_picture
from kandinsky_runtime.pictures.mask import Mask, understand_mask
from kandinsky_runtime.pictures.mask_rules import RULES
from kandinsky_runtime.pictures.registration import registered, stretching


@dataclass(frozen=True)
class MaskReport:
    """What was understood of the mask of one result.

    Attributes:
        rule: what is repainted: a name of `mask_rules.RULES`.
        inverted: whether that was swapped by `invert_mask`.
        repainted: the share of the picture that is repainted, 0 to 1.
    """

    rule: str
    inverted: bool
    repainted: float

    def __str__(self) -> str:
        turned = ", inverted" if self.inverted else ""
        return f"mask: {RULES[self.rule]}{turned}; {self.repainted:.3g} of the picture"


@dataclass(frozen=True)
class Sources:
    """The pictures and masks of a run, one for each pair, or one for all.

    Attributes:
        pictures: RGB or RGBA.
        masks: of mode 1, L or RGB, at their own sizes; white is repainted.
        rules: the rule of each mask, see `MaskReport`.
        inverted: whether the masks were swapped.
        notes: what had to be guessed, one sentence each.
    """

    pictures: list[Image.Image]
    masks: list[Image.Image]
    rules: list[str]
    inverted: bool
    notes: tuple[str, ...]

    @classmethod
    def read(cls, options: InpaintOptions, images: Sequence[Any], mask_images: Sequence[Any]) -> Sources:
        """Read pictures and masks.

        Raises:
            InputError: one of them cannot be read or used.
        """
        pictures = [read_picture(source, max_pixels=options.max_pixels) for source in images]
        masks = [
            understand_mask(source, mode=options.mask_mode, max_pixels=options.max_pixels) for source in mask_images
        ]
        notes = [*(note for picture in pictures for note in picture.notes)]
        notes += [note for mask in masks for note in mask.notes]
        masks, more = _brought_together(pictures, masks)
        if options.invert_mask:
            masks = [replace(mask, image=ImageOps.invert(mask.image)) for mask in masks]
        if options.expand is not None:
            edges = cast(Edges, tuple(options.expand))
            masks = _expanded_masks(pictures, masks, edges)
            pictures = [
                replace(picture, image=expanded(picture.image, edges, options.max_pixels)) for picture in pictures
            ]
        return cls(
            [picture.image for picture in pictures],
            [mask.image for mask in masks],
            [mask.rule for mask in masks],
            options.invert_mask and options.mask_image is not None,
            tuple(dict.fromkeys([*notes, *more])),
        )

    def reports(self, areas: Sequence[Area]) -> tuple[MaskReport, ...]:
        """What was understood of the mask of each of N areas."""
        return tuple(
            MaskReport(self.rules[pair % len(self.rules)], self.inverted, area.share) for pair, area in enumerate(areas)
        )


def _expanded_masks(pictures: Sequence[Picture], masks: Sequence[Mask], edges: Edges) -> list[Mask]:
    """The masks of the pictures after these have been expanded, one for each pair."""
    if not masks:
        return [Mask(expanded_mask(None, picture.image, edges), "added") for picture in pictures]
    return [
        replace(mask, image=expanded_mask(mask.image, picture.image, edges))
        for picture, mask in _pairs(pictures, masks)
    ]


def _pairs(pictures: Sequence[Picture], masks: Sequence[Mask]) -> list[tuple[Picture, Mask]]:
    count = max(len(pictures), len(masks))
    return [(pictures[pair % len(pictures)], masks[pair % len(masks)]) for pair in range(count)]


def _brought_together(pictures: Sequence[Picture], masks: Sequence[Mask]) -> tuple[list[Mask], list[str]]:
    """The masks of the upright pictures, one for each pair or one for all, and notes on what was guessed."""
    if not masks:
        return [], []
    pairs = _pairs(pictures, masks)
    found = [registered(mask, picture) for picture, mask in pairs]
    turned = [mask for mask, _ in found]
    notes = [note for _, note in found]
    notes += [stretching(mask, picture) for mask, (picture, _) in zip(turned, pairs, strict=True)]
    same = all(mask is own for mask, (_, own) in zip(turned, pairs, strict=True))
    return list(masks) if same else turned, [note for note in notes if note]

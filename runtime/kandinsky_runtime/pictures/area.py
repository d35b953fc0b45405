"""Work on a crop around the mask instead of on the whole picture, and put the result back.

Boxes are (left, top, right, bottom) in pixels, as Pillow has them.

Legend: N pairs of picture and mask · B samples · H, W height and width of a whole picture · h, w those of its box
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.batch import as_list, check_lengths
from kandinsky_runtime.checks import flag, whole_number
from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.limits import MAX_PIXELS, MIN_SIZE
from kandinsky_runtime.pictures.image import fit, read_image, to_pil
from kandinsky_runtime.pictures.mask import fit_mask, paste_pixels, read_mask

Array = npt.NDArray[np.float32]
Box = tuple[int, int, int, int]
Size = tuple[int, int]
"""(width, height), as Pillow has it."""

INPAINT_AREAS = ("picture", "mask")
DEFAULT_PADDING = 32


@dataclass(frozen=True)
class Area:
    """Where a picture is worked on.

    Attributes:
        picture: the whole one, RGB.
        box: what is worked on of it.
        mask: (h, w) of {0, 1}, 1 to repaint: that of the box.
        inner: what the resized box takes of the working picture, from the top left corner; the rest is padding.
    """

    picture: Image.Image
    box: Box
    mask: Array
    inner: Size

    def crop(self, working: Size) -> tuple[Image.Image, Image.Image]:
        """The box's picture (RGB) and mask (L) at the working size, the last row and column repeated as padding."""
        picture = fit(self.picture.crop(self.box), *self.inner)
        mask = fit_mask(_as_picture(self.mask), *self.inner)
        return _padded(picture, working), _padded(_as_picture(mask), working)

    def put_back(self, worked: Array, composite: str) -> Image.Image:
        """The whole picture with its box repainted.

        Args:
            worked: the working picture, float32 (…, …, 3) in [0, 1].
            composite: "paste" leaves every pixel outside the mask as it was; "none" replaces the whole box.
        """
        (part,) = to_pil(self._at_own_size(worked)[None])
        whole = self.picture.copy()
        whole.paste(part, self.box, None if composite == "none" else _as_picture(self.mask))
        return whole

    def put_back_pixels(self, worked: Array, composite: str) -> Array:
        """`put_back` as float32 (H, W, 3) in [0, 1]."""
        whole, part = _floats(self.picture), self._at_own_size(worked)
        left, top, right, bottom = self.box
        inside = whole[top:bottom, left:right]
        inside[...] = part if composite == "none" else paste_pixels(inside, part, self.mask)
        return whole

    def _at_own_size(self, worked: Array) -> Array:
        """The box's part (h, w, 3) of a working picture, in [0, 1]; bit for bit where nothing was resized."""
        left, top, right, bottom = self.box
        part = worked[: self.inner[1], : self.inner[0]]
        if self.inner == (right - left, bottom - top):
            return part
        planes = [
            Image.fromarray(np.ascontiguousarray(part[..., channel])).resize(
                (right - left, bottom - top), Image.Resampling.BICUBIC
            )
            for channel in range(part.shape[2])
        ]
        resized: Array = np.clip(np.stack([np.asarray(plane) for plane in planes], axis=-1), 0, 1)
        return resized


@dataclass(frozen=True)
class Areas:
    """The areas of a run, all worked on at one size.

    Attributes:
        areas: N, one for each pair of picture and mask.
        working: (width, height) that all of them are worked on at.
    """

    areas: tuple[Area, ...]
    working: Size

    def crops(self) -> tuple[list[Image.Image], list[Image.Image]]:
        """Pictures and masks to work on, N each."""
        images, masks = zip(*(area.crop(self.working) for area in self.areas), strict=True)
        return list(images), list(masks)

    def check_output_type(self, output_type: str) -> None:
        """Raise UsageError where the results would be arrays of several sizes."""
        sizes = sorted({area.picture.size for area in self.areas})
        if output_type == "np" and len(sizes) > 1:
            listed = ", ".join(f"{across}x{down}" for across, down in sizes)
            raise UsageError(f'the pictures have several sizes ({listed}), which make no one array: ask for "pil"')

    def finished(self, worked: Array, output_type: str, composite: str) -> list[Image.Image] | Array:
        """Whole pictures, as "pil" or "np", from the working ones (B, …, …, 3) in [0, 1]; B is a multiple of N."""
        pairs = list(zip(self._of_samples(len(worked)), worked, strict=True))
        if output_type == "np":
            return np.stack([area.put_back_pixels(picture, composite) for area, picture in pairs])
        return [area.put_back(picture, composite) for area, picture in pairs]

    def unchanged(self, batch: int, output_type: str) -> list[Image.Image] | Array:
        """The whole pictures of a batch as they came in; copies."""
        areas = self._of_samples(batch)
        if output_type == "np":
            return np.stack([_floats(area.picture) for area in areas])
        return [area.picture.copy() for area in areas]

    def _of_samples(self, batch: int) -> list[Area]:
        return [self.areas[sample * len(self.areas) // batch] for sample in range(batch)]


def around_masks(
    image: Any,
    mask_image: Any,
    *,
    multiple: int,
    height: int | None,
    width: int | None,
    padding: int | None = None,
    invert_mask: bool = False,
) -> Areas:
    """The area around each mask, which has everything that the mask repaints.

    Without `height` and `width` a box has its picture's own resolution and grows to multiples of `multiple` as far as
    the picture goes; nothing is resized. With them, it grows to their proportions as far as the picture goes, and is
    resized to fit in, never distorted. Several boxes get one size. An empty mask's box lies in the picture's middle.

    Args:
        image, mask_image: as `InpaintPipeline.__call__` takes them.
        multiple: pixels.
        height, width: of the working picture in pixels, at least 64; both or none.
        padding: pixels of the picture around what a mask repaints, 32 where it is None.
        invert_mask: the masks are black where they are to be repainted.

    Raises:
        InputError: a picture or mask that cannot be used, or boxes that cannot have one size.
        UsageError: an option that cannot be meant.
    """
    padding = DEFAULT_PADDING if padding is None else whole_number("padding_mask_crop", padding, 0, MAX_PIXELS)
    invert = flag("invert_mask", invert_mask)
    if (height is None) != (width is None):
        raise UsageError(
            f"height is {height} and width is {width}; with inpaint_area 'mask' give both, the size to work at, or none"
        )
    if height is not None and width is not None:
        whole_number("width", width, MIN_SIZE)
        if whole_number("height", height, MIN_SIZE) * width > MAX_PIXELS:
            raise InputError(f"the size to work at is {width}x{height}; expected at most {MAX_PIXELS:,} pixels in all")
    images, masks = as_list("image", image), as_list("mask_image", mask_image)
    count = max(len(images), len(masks))
    check_lengths(count, image=images, mask_image=masks)
    pictures = [read_image(source) for source in images]
    readable = [read_mask(source, invert=invert) for source in masks]
    pairs = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        pairs.append((picture, fit_mask(readable[index % len(readable)], *picture.size)))
    boxes = [_around(mask, padding) for _, mask in pairs]
    if height is None or width is None:
        working = _common_size(boxes, [picture.size for picture, _ in pairs], multiple)
        grown = [_grown(box, working, picture.size) for box, (picture, _) in zip(boxes, pairs, strict=True)]
    else:
        working = int(width), int(height)
        grown = [
            _grown(box, _in_proportion(box, working), picture.size)
            for box, (picture, _) in zip(boxes, pairs, strict=True)
        ]
    areas = [
        Area(picture, box, mask[box[1] : box[3], box[0] : box[2]].copy(), _fitted(box, working))
        for box, (picture, mask) in zip(grown, pairs, strict=True)
    ]
    return Areas(tuple(areas), working)


def _around(mask: Array, padding: int) -> Box:
    """What a mask repaints with padding around it, cut off at the edges; of an empty mask the middle pixel."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        rows, columns = np.array([height // 2]), np.array([width // 2])
    return (
        max(0, int(columns[0]) - padding),
        max(0, int(rows[0]) - padding),
        min(width, int(columns[-1]) + 1 + padding),
        min(height, int(rows[-1]) + 1 + padding),
    )


def _common_size(boxes: Sequence[Box], pictures: Sequence[Size], multiple: int) -> Size:
    """The size that every box grows to where nothing is resized."""
    sizes = []
    for name, axis in (("width", 0), ("height", 1)):
        needed = max(MIN_SIZE, *(box[axis + 2] - box[axis] for box in boxes))
        least = min(picture[axis] for picture in pictures)
        if least < needed:
            raise InputError(
                f"the areas around the masks need a {name} of {needed} pixels, and a picture has {least}: give height"
                " and width, the size to work at"
            )
        sizes.append(min(least, -(-needed // multiple) * multiple))
    return sizes[0], sizes[1]


def _in_proportion(box: Box, working: Size) -> Size:
    """The smallest size that holds a box and has the proportions of the working picture."""
    left, top, right, bottom = box
    across, down = right - left, bottom - top
    return max(across, -(-down * working[0] // working[1])), max(down, -(-across * working[1] // working[0]))


def _grown(box: Box, size: Size, picture: Size) -> Box:
    """A box that holds `box`, with its middle where that can be, of `size` as far as the picture goes."""
    edges = []
    for axis in (0, 1):
        length = min(size[axis], picture[axis])
        start = min(max(0, (box[axis] + box[axis + 2] - length) // 2), picture[axis] - length)
        edges.append((start, start + length))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _fitted(box: Box, working: Size) -> Size:
    """The size of a box scaled, by one factor for both axes, to just fit into the working picture."""
    sizes = [box[2] - box[0], box[3] - box[1]]
    scale = min(room / size for room, size in zip(working, sizes, strict=True))
    across, down = (max(1, min(room, round(size * scale))) for room, size in zip(working, sizes, strict=True))
    return across, down


def _padded(image: Image.Image, size: Size) -> Image.Image:
    """An image with its last column and row repeated up to a size."""
    right, bottom = size[0] - image.width, size[1] - image.height
    pixels = np.asarray(image)
    return Image.fromarray(np.pad(pixels, ((0, bottom), (0, right), *((0, 0),) * (pixels.ndim - 2)), mode="edge"))


def _as_picture(mask: Array) -> Image.Image:
    return Image.fromarray((mask * 255).astype(np.uint8))


def _floats(picture: Image.Image) -> Array:
    pixels = np.asarray(picture).astype(np.float32)
    pixels /= 255
    return pixels

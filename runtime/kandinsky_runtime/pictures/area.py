"""The areas of pictures that a run works on: whole pictures, or crops around masks that are put back afterwards.

Boxes are (left, top, right, bottom) in pixels, as in Pillow.

Legend: N pairs of picture and mask · B samples · H, W height and width of a whole picture · h, w those of its box
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.limits import MAX_PIXELS
from kandinsky_runtime.pictures.boxes import Box, Size, box_around, common_size, fitted_size, grown, in_proportion
from kandinsky_runtime.pictures.image import fit, to_pil, without_alpha
from kandinsky_runtime.pictures.mask import Scalar, blend_pixels, fit_mask, fit_weights, paste_pixels
from kandinsky_runtime.pictures.opening import float_to_eight_bit
from kandinsky_runtime.pictures.sizes import picture_size

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Area:
    """The part of a picture that a run works on.

    The working picture is the resized box at the top left, with padding to the right or below.

    Attributes:
        picture: the whole picture, RGB or RGBA; what is repainted becomes opaque.
        number: the index of the picture in the run; several areas may share a picture.
        box: the box of the part.
        mask: the mask of the box, (h, w) of {0, 1}, 1 to repaint.
        inner: the size of the resized box in the working picture.
        weights: the weights of the new pixels in a blend, (h, w) in [0, 1]; None if the mask decides.
    """

    picture: Image.Image
    number: int
    box: Box
    mask: Array
    inner: Size
    weights: Array | None = None

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """The pixels of the box that may change, (h, w)."""
        painted = self.mask > 0
        return painted if self.weights is None else painted | (self.weights > 0)

    @property
    def share(self) -> float:
        """The share of the whole picture that is repainted, 0 to 1."""
        return float(np.count_nonzero(self.mask)) / (self.picture.width * self.picture.height)

    def crop(self, working: Size) -> Image.Image:
        """The working picture (RGB), padded by repetition of the last row or column."""
        return Image.fromarray(
            _padded(np.asarray(fit(without_alpha(self.picture.crop(self.box)), *self.inner)), working)
        )

    def working_mask(self, working: Size) -> Array:
        """The mask of the working picture, padded in the same way."""
        return _padded(fit_mask(_as_picture(self.mask), *self.inner), working)

    def put_back(self, worked: Array, composite: str) -> Image.Image:
        """The whole picture with its box repainted.

        Args:
            worked: the repainted working picture, float32 (…, …, 3) in [0, 1].
            composite: "paste" to keep every pixel outside the mask, "blend" to keep every pixel of no weight, or "none"
                to replace the whole box.
        """
        whole = self.picture.copy()
        if composite == "blend" and self.weights is not None:
            old = _floats(whole.crop(self.box), whole.mode)
            part = Image.fromarray(
                float_to_eight_bit(blend_pixels(old, self._opaque(worked, whole.mode), self.weights))
            )
            whole.paste(part, self.box)
            return whole
        (part,) = to_pil(self._at_own_size(worked)[None])
        whole.paste(part, self.box, None if composite == "none" else _as_picture(self.mask))
        return whole

    def put_back_pixels(self, worked: Array, composite: str) -> Array:
        """The result of `put_back` as float32 (H, W, 3) in [0, 1]."""
        whole, part = _floats(self.picture), self._at_own_size(worked)
        left, top, right, bottom = self.box
        inside = whole[top:bottom, left:right]
        if composite == "blend" and self.weights is not None:
            inside[...] = blend_pixels(inside, part, self.weights)
        else:
            inside[...] = part if composite == "none" else paste_pixels(inside, part, self.mask)
        return whole

    def _opaque(self, worked: Array, mode: str) -> Array:
        """The box of a working picture at its own size, with an opaque alpha channel if `mode` is RGBA."""
        part = self._at_own_size(worked)
        return np.pad(part, ((0, 0), (0, 0), (0, 1)), constant_values=1) if mode == "RGBA" else part

    def _at_own_size(self, worked: Array) -> Array:
        """The box of a working picture at its own size, (h, w, 3) in [0, 1]; exact if the box was not resized."""
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
    """The areas of a run, whose working pictures have one size.

    Attributes:
        areas: the N areas, one for each pair of picture and mask.
        working: the size of every working picture.
    """

    areas: tuple[Area, ...]
    working: Size

    def crops(self) -> tuple[list[Image.Image], list[int]]:
        """The different working pictures, and the index of each area's working picture among them."""
        places: dict[tuple[int, Box], int] = {}
        crop_of = [places.setdefault((area.number, area.box), len(places)) for area in self.areas]
        firsts = [self.areas[crop_of.index(place)] for place in range(len(places))]
        return [area.crop(self.working) for area in firsts], crop_of

    def masks(self) -> Array:
        """The masks of the working pictures, (N, …, …) of {0, 1}, 1 to repaint."""
        return np.stack([area.working_mask(self.working) for area in self.areas])

    def check_output_type(self, output_type: str) -> None:
        """Raise UsageError if the results cannot be stacked into one array."""
        sizes = sorted({area.picture.size for area in self.areas})
        if output_type == "np" and len(sizes) > 1:
            listed = ", ".join(f"{across}x{down}" for across, down in sizes)
            raise UsageError(f'the pictures have several sizes ({listed}); output_type "np" needs one size: use "pil"')

    def finished(self, worked: Array, output_type: str, composite: str) -> list[Image.Image] | Array:
        """Whole pictures, "pil" or "np", from repainted ones (B, …, …, 3) in [0, 1]; B is a multiple of N."""
        pairs = list(zip(self.by_sample(len(worked)), worked, strict=True))
        if output_type == "np":
            return np.stack([area.put_back_pixels(picture, composite) for area, picture in pairs])
        return [area.put_back(picture, composite) for area, picture in pairs]

    def unchanged(self, batch: int, output_type: str) -> list[Image.Image] | Array:
        """Copies of the whole pictures of a batch, unchanged."""
        areas = self.by_sample(batch)
        if output_type == "np":
            return np.stack([_floats(area.picture) for area in areas])
        return [area.picture.copy() for area in areas]

    def by_sample(self, batch: int) -> list[Area]:
        """The area of each of B samples."""
        return [self.areas[sample * len(self.areas) // batch] for sample in range(batch)]


def whole_pictures(
    pictures: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    *,
    height: int | None,
    width: int | None,
    blur: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Areas:
    """Whole pictures as areas: each box is the whole picture at the size of the result.

    Args:
        pictures, masks: the results of `read_picture` and `understand_mask`; one for each pair, or one for all.
        height, width: the size of the results in pixels, or None for the pictures' own.
        blur: the blur of the masks' weights in a blend, see `fit_weights`; None without a blend.
        max_pixels: the most pixels of the working picture.

    Raises:
        InputError: the pictures' sizes differ or are too small, and no size is given; or a result has too many pixels.
    """
    rows, columns = picture_size([picture.size for picture in pictures], height, width, max_pixels)
    size = columns, rows
    fitted = [fit(picture, *size) for picture in pictures]
    repainted = [fit_mask(mask, *size) for mask in masks]
    weights = [None if blur is None else fit_weights(mask, *size, blur) for mask in masks]
    return Areas(
        tuple(
            Area(fitted[picture], picture, (0, 0, columns, rows), repainted[mask], size, weights[mask])
            for picture, mask in _pairs(len(fitted), len(repainted))
        ),
        size,
    )


def around_masks(
    pictures: Sequence[Image.Image],
    masks: Sequence[Image.Image],
    *,
    multiple: int,
    height: int | None,
    width: int | None,
    padding: int | None = None,
    blur: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Areas:
    """The area around each mask: a box that contains every pixel to repaint.

    A box grows as far as its picture goes. Without `height` and `width`, it grows to multiples of `multiple` and is not
    resized; all boxes get one size. With `height` and `width`, it grows to their proportions and is resized to fit,
    without distortion. The box of an empty mask is in the middle of its picture.

    Args:
        pictures, masks: the results of `read_picture` and `understand_mask`; one for each pair, or one for all.
        multiple: the number that the sides of a box are multiples of, in pixels.
        height, width: the size of the working picture in pixels; both or none.
        padding: the pixels of the picture around the part to repaint; None for 32.
        blur: the blur of the masks' weights in a blend, see `fit_weights`; None without a blend.
        max_pixels: the most pixels of the working picture.

    Raises:
        InputError: the working size is too large, or the boxes cannot have one size.
    """
    if height is not None and width is not None and height * width > max_pixels:
        raise InputError(f"the size to work at is {width}x{height}; expected at most {max_pixels:,} pixels in all")
    pairs = [
        (number, fit_mask(masks[mask], *pictures[number].size)) for number, mask in _pairs(len(pictures), len(masks))
    ]
    weights: list[Array | None] = [None] * len(pairs)
    if blur is not None:
        weights = [
            fit_weights(masks[mask], *pictures[number].size, blur) for number, mask in _pairs(len(pictures), len(masks))
        ]
    sizes = [pictures[number].size for number, _ in pairs]
    changed = [
        mask if weight is None else np.maximum(mask, weight) for (_, mask), weight in zip(pairs, weights, strict=True)
    ]
    boxes = [box_around(mask, padding) for mask in changed]
    if height is None or width is None:
        working = common_size(boxes, sizes, multiple)
        wanted = [working] * len(boxes)
    else:
        working = int(width), int(height)
        wanted = [in_proportion(box, working) for box in boxes]
    areas = []
    for (number, mask), weight, box, least, size in zip(pairs, weights, boxes, wanted, sizes, strict=True):
        left, top, right, bottom = whole = grown(box, least, size)
        inside = np.s_[top:bottom, left:right]
        shares = None if weight is None else weight[inside].copy()
        areas.append(Area(pictures[number], number, whole, mask[inside].copy(), fitted_size(whole, working), shares))
    return Areas(tuple(areas), working)


def _pairs(pictures: int, masks: int) -> list[tuple[int, int]]:
    """The indices of picture and mask of each pair; a single picture or mask belongs to every pair."""
    return [(pair % pictures, pair % masks) for pair in range(max(pictures, masks))]


def _padded(pixels: npt.NDArray[Scalar], size: Size) -> npt.NDArray[Scalar]:
    """Pixels (H, W, …), padded to a size by repetition of the last column and row."""
    height, width = pixels.shape[:2]
    around = ((0, size[1] - height), (0, size[0] - width), *((0, 0),) * (pixels.ndim - 2))
    return np.pad(pixels, around, mode="edge")


def _as_picture(mask: Array) -> Image.Image:
    return Image.fromarray((mask * 255).astype(np.uint8))


def _floats(picture: Image.Image, mode: str = "RGB") -> Array:
    pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode)).astype(np.float32)
    pixels /= 255
    return pixels

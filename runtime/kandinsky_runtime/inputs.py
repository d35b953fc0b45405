"""A caller's pictures, masks, embeddings and seeds become one checked request, before any graph runs.

Legend: B samples · U different pictures · C latent channels · h, w latent height and width
        H, W height and width padded to what the graphs take · E embedding width
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime import guidance
from kandinsky_runtime.embeds import as_embeds
from kandinsky_runtime.errors import BundleError, InputError
from kandinsky_runtime.image import fit, pad_to_multiple, read_image, to_model
from kandinsky_runtime.manifest import Manifest
from kandinsky_runtime.mask import fit_mask, is_all_keep, latent_keep_mask, read_mask

Array = npt.NDArray[np.float32]

MIN_SIZE = 64
MAX_SEED = 2**64 - 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geometry:
    """The sizes that a bundle's graphs fix.

    Attributes:
        channels: C, of the latents.
        out_channels: of the UNet's output.
        factor: f, pixels per latent cell along one axis.
        multiple: heights and widths in pixels are padded to a multiple of it.
        embed_width: E.
    """

    channels: int
    out_channels: int
    factor: int
    multiple: int
    embed_width: int

    @classmethod
    def of(cls, manifest: Manifest) -> Geometry:
        """Read them from the graphs' signatures.

        Raises:
            BundleError: the signatures do not fit each other.
        """
        unet, encoder = manifest.components["unet"].spec, manifest.components["movq_encoder"].spec
        try:
            dims = {spec.name: spec.dims for spec in (*unet.inputs, *unet.outputs, *encoder.outputs)}
            channels, in_channels, out_channels = (int(dims[name][1]) for name in ("latents", "sample", "noise_pred"))
            embed_width = int(dims["image_embeds"][1])
            unit = unet.ranges["height"].multiple
            side = encoder.ranges["height"].multiple
            factor = side // encoder.outputs[0].shape({"batch": 1, "height": side, "width": side})[2]
        except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            raise BundleError("bundle", [f"its graphs are not those of Kandinsky 2.2 inpainting ({error!r})"]) from error
        if in_channels != 2 * channels + 1 or out_channels not in (channels, 2 * channels):
            raise BundleError(
                "bundle",
                [f"its UNet takes {in_channels} and returns {out_channels} channels; inpainting with {channels} latent"
                 f" channels takes {2 * channels + 1} and returns {channels} or {2 * channels}"],
            )  # fmt: skip
        return cls(channels, out_channels, factor, math.lcm(factor * unit, side), embed_width)


@dataclass(frozen=True)
class Request:
    """What one run works on; every array is float32.

    Attributes:
        pictures: U RGB pictures of the result's size; `picture_of` tells which of them a sample has.
        pixels: (U, 3, H, W) in [-1, 1], padded.
        masks: (B, height, width), 1 to repaint, 0 to keep.
        keep: (B, 1, h, w), 1 to keep, on the latent grid.
        image_embeds, negative_image_embeds: (B, E); the latter is empty without guidance.
        seeds: one for each sample.
        latents: initial noise (B, C, h, w), or None to draw it.
        latent_shape: (B, C, h, w).
        notes: what the user should know.
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
    def keeps_everything(self) -> bool:
        """Whether no mask has anything to repaint."""
        return is_all_keep(self.masks)

    def checked_latents(self, latents: npt.ArrayLike) -> Array:
        """Latents from a caller as a float32 array of this request's shape.

        Raises:
            InputError: another shape, not numeric, or not finite.
        """
        return _as_latents(latents, self.latent_shape)


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
    seed: int | Sequence[int] | None,
    latents: npt.ArrayLike | None,
    invert_mask: bool,
) -> Request:
    """Check a caller's inputs and bring them to the shapes of the loop; see `InpaintPipeline.__call__`.

    Raises:
        InputError: names the input, what was got, and what is expected.
    """
    scale = guidance.check_scale(guidance_scale)
    repeats = _positive("num_images_per_prompt", num_images_per_prompt)
    sources = _as_list(image)
    mask_sources = _as_list(mask_image)
    positive = as_embeds(image_embeds, "image_embeds", geometry.embed_width)
    negative = _negative(negative_image_embeds, geometry.embed_width, scale)

    prompts = _common_length(
        {"image": len(sources), "mask_image": len(mask_sources), "image_embeds": len(positive)}
        | ({"negative_image_embeds": len(negative)} if len(negative) else {})
    )
    read = [read_image(source) for source in sources]
    size = _result_size(read, height, width)
    pictures = tuple(fit(picture, *size) for picture in read)
    fitted = np.stack([fit_mask(read_mask(source, invert=invert_mask), *size) for source in mask_sources])
    masks = _per_sample(fitted, prompts, repeats)
    picture_of = tuple(_per_sample(np.arange(len(pictures)), prompts, repeats).tolist())

    pixels = pad_to_multiple(to_model(pictures), geometry.multiple)
    grid = (pixels.shape[2] // geometry.factor, pixels.shape[3] // geometry.factor)
    padding = ((0, 0), (0, pixels.shape[2] - size[1]), (0, pixels.shape[3] - size[0]))
    keep = latent_keep_mask(np.pad(masks, padding), *grid)
    batch = prompts * repeats
    shape = (batch, geometry.channels, *grid)
    return Request(
        pictures=pictures,
        picture_of=picture_of,
        pixels=pixels,
        masks=masks,
        keep=keep,
        image_embeds=_per_sample(positive, prompts, repeats),
        negative_image_embeds=_per_sample(negative, prompts, repeats) if len(negative) else negative,
        guidance_scale=scale,
        seeds=_seeds(seed, batch),
        latents=None if latents is None else _as_latents(latents, shape),
        latent_shape=shape,
        notes=_notes(masks, keep),
    )


def _as_list(value: Any) -> list[Any]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items:
        raise InputError("an empty list of pictures or masks")
    return items


def _positive(name: str, value: int) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1")
    return int(value)


def _negative(value: npt.ArrayLike | None, width: int, scale: float) -> Array:
    if not guidance.is_guided(scale):
        return np.empty((0, width), np.float32)
    if value is None:
        raise InputError(
            f"guidance_scale is {scale:g}, which needs negative_image_embeds; give them, or a guidance_scale of 1"
        )
    return as_embeds(value, "negative_image_embeds", width)


def _common_length(lengths: dict[str, int]) -> int:
    longest = max(lengths.values())
    if odd := [f"{name} has {length}" for name, length in lengths.items() if length not in (1, longest)]:
        raise InputError(f"{' and '.join(odd)}, the batch has {longest}: give one for all or one for each")
    return longest


def _per_sample(items: npt.NDArray[Any], prompts: int, repeats: int) -> npt.NDArray[Any]:
    """One entry for each sample: what was given once serves all, and each is repeated `repeats` times in a row."""
    return np.repeat(np.broadcast_to(items, (prompts, *items.shape[1:])), repeats, axis=0)


def _result_size(pictures: list[Image.Image], height: int | None, width: int | None) -> tuple[int, int]:
    sizes = sorted({picture.size for picture in pictures})
    if len(sizes) > 1 and (height is None or width is None):
        listed = ", ".join(f"{w}x{h}" for w, h in sizes)
        raise InputError(f"the pictures have several sizes ({listed}); give height and width")
    own_width, own_height = sizes[0]
    chosen = {"height": own_height if height is None else height, "width": own_width if width is None else width}
    for name, value in chosen.items():
        if _positive(name, value) < MIN_SIZE:
            raise InputError(f"{name} is {value}; it must be at least {MIN_SIZE}: give height and width")
    return int(chosen["width"]), int(chosen["height"])


def _seeds(seed: int | Sequence[int] | None, batch: int) -> tuple[int, ...]:
    if seed is None:
        seed = secrets.randbits(32)
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        seeds = [int(seed) + i for i in range(batch)]
    elif isinstance(seed, Sequence) and not isinstance(seed, str):
        seeds = list(seed)
    else:
        raise InputError(f"seed is {seed!r}; give a whole number or a list of them")
    if len(seeds) != batch:
        raise InputError(f"there are {len(seeds)} seeds for {batch} results: give one, or one for each result")
    for item in seeds:
        if not isinstance(item, (int, np.integer)) or isinstance(item, bool) or not 0 <= item <= MAX_SEED:
            raise InputError(f"seed is {item!r}; it must be a whole number from 0 to {MAX_SEED}")
    return tuple(int(item) for item in seeds)


def _as_latents(latents: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.asarray(latents)
    if array.dtype.kind not in "fiu":
        raise InputError(f"latents have dtype {array.dtype}; they are real numbers")
    if array.shape != shape:
        raise InputError(f"latents are {array.shape}; this run takes {shape}")
    if not np.isfinite(array).all():
        raise InputError("latents have NaN or infinity")
    return array.astype(np.float32)


def _notes(masks: Array, keep: Array) -> tuple[str, ...]:
    notes = []
    if any(mask.any() and cells.all() for mask, cells in zip(masks, keep, strict=True)):
        notes.append("a mask is so small that it falls between the latent cells: nothing is generated for it")
    for note in notes:
        _log.warning(note)
    return tuple(notes)

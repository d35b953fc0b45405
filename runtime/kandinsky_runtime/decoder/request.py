"""The checked inputs of a run of the decoder: embeddings, seeds, shapes, and pictures to encode.

Legend: B samples · U different pictures · C latent channels · h, w latent height and width
        H, W height and width padded to what the graphs take · E embedding width
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.batch import as_latents, check_lengths, per_sample, seeds_for
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.checks import whole_number
from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.decoder.options import DecoderOptions
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.limits import MAX_RESULTS
from kandinsky_runtime.pictures.image import pad_to_multiple, to_model
from kandinsky_runtime.pictures.sizes import padding_for
from kandinsky_runtime.prior.embeds import as_embeds
from kandinsky_runtime.sampling import guidance
from kandinsky_runtime.sampling.schedulers import Sampler

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Request(ABC):
    """The checked inputs of one run; every array is float32.

    Attributes:
        image_embeds: (B, E); empty if a prior makes them first.
        negative_image_embeds: (B, E); empty without guidance, or if a prior makes them first.
        seeds: one for each sample.
        latents: initial noise (B, C, h, w), or None to draw it.
        latent_shape: (B, C, h, w).
        height, width: of the result, in pixels.
        pixels: (U, 3, H, W) in [-1, 1], padded; U = 0 without pictures.
        picture_of: the picture of each sample; empty without pictures.
        first_step: the step to begin with, from 0.
        notes: what the user should know, one sentence each.
        understood: how the inputs were understood without a guess, one sentence each.
    """

    image_embeds: Array
    negative_image_embeds: Array
    seeds: tuple[int, ...]
    latents: Array | None
    latent_shape: tuple[int, int, int, int]
    height: int
    width: int
    pixels: Array
    picture_of: tuple[int, ...]
    first_step: int = 0
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """B."""
        return self.latent_shape[0]

    @property
    def result_sizes(self) -> tuple[tuple[int, int], ...]:
        """The different sizes of the results, (width, height)."""
        return ((self.width, self.height),)

    @property
    def keeps_everything(self) -> bool:
        """Whether the results are the pictures as they came in."""
        return False

    @abstractmethod
    def begin(self, noise: Array, encoded: Array, sampler: Sampler) -> tuple[Array, KeptArea | None]:
        """The latents to begin with, (B, C, h, w), and the kept area of the pictures.

        Args:
            noise: the run's first noise, (B, C, h, w).
            encoded: latents of the samples' pictures, (B, C, h, w); empty without pictures.
            sampler: the run's.
        """

    @abstractmethod
    def finished(self, decoded: Array, output_type: str) -> list[Image.Image] | Array:
        """The results as "pil" or "np", from the decoder's pictures (B, height, width, 3) in [0, 1]."""

    def untouched(self, output_type: str) -> list[Image.Image] | Array:
        """The pictures as they came in, as "pil" or "np"; for a request that keeps everything."""
        raise NotImplementedError


@dataclass(frozen=True)
class Samples:
    """The samples of a run; an input that is given once is used for all of them.

    Attributes:
        prompts: the number of different prompts, pictures or embeddings.
        repeats: results of each.
        image_embeds, negative_image_embeds: (B, E), see `Request`.
        seeds: one for each sample.
    """

    prompts: int
    repeats: int
    image_embeds: Array
    negative_image_embeds: Array
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, geometry: Geometry, options: DecoderOptions, prompt_count: int, **inputs: Sized) -> Samples:
        """Count the samples and check that all inputs fit together.

        Args:
            geometry: the bundle's.
            options: the run's.
            prompt_count: prompts whose embeddings a prior makes afterwards; 0 if embeddings are given.
            inputs: the other inputs' entries by name, one or as many as there are prompts; an empty one is left out.

        Raises:
            InputError: an input is missing, or their numbers do not fit together.
            UsageError: too many results.
        """
        positive = negative = np.empty((0, geometry.embed_width), np.float32)
        if not prompt_count:
            positive, negative = check_embeds(
                options.image_embeds, options.negative_image_embeds, geometry.embed_width, options.guidance_scale
            )
        prompts = max(len(positive), prompt_count, *map(len, inputs.values()))
        check_lengths(
            prompts, **inputs, image_embeds=positive, negative_image_embeds=negative, prompt=range(prompt_count)
        )
        repeats = options.num_images_per_prompt
        batch = whole_number("the number of results", prompts * repeats, 1, MAX_RESULTS)
        return cls(
            prompts,
            repeats,
            embeds_per_sample(positive, prompts, repeats),
            embeds_per_sample(negative, prompts, repeats),
            seeds_for(options.seed, batch),
        )

    def common(
        self,
        geometry: Geometry,
        options: DecoderOptions,
        pictures: Sequence[Image.Image],
        picture_of: Sequence[int],
        height: int,
        width: int,
    ) -> dict[str, Any]:
        """The fields that every request has.

        Args:
            geometry: the bundle's.
            options: the run's.
            pictures: the different pictures, all of the result's size; or none.
            picture_of: the picture of each prompt, or of all of them.
            height, width: of the result, in pixels.

        Raises:
            InputError: the result would be too large, or `latents` do not fit it.
        """
        bottom, right = padding_for(geometry, height, width, options.max_pixels)
        shape = (
            len(self.seeds),
            geometry.channels,
            (height + bottom) // geometry.factor,
            (width + right) // geometry.factor,
        )
        pixels = np.empty((0, 3, height + bottom, width + right), np.float32)
        if pictures:
            pixels = pad_to_multiple(to_model(pictures), geometry.multiple)
        return {
            "image_embeds": self.image_embeds,
            "negative_image_embeds": self.negative_image_embeds,
            "seeds": self.seeds,
            "latents": None if options.latents is None else as_latents("latents", options.latents, shape),
            "latent_shape": shape,
            "height": height,
            "width": width,
            "pixels": pixels,
            "picture_of": tuple(self.spread(np.asarray(picture_of)).tolist()) if pictures else (),
        }

    def spread(self, items: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """One entry for each sample, from one for each prompt or one for all."""
        return per_sample(items, self.prompts, self.repeats)


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


def embeds_per_sample(embeds: Array, prompts: int, repeats: int) -> Array:
    """`per_sample`, and nothing if there are none."""
    return per_sample(embeds, prompts, repeats) if len(embeds) else embeds

"""What every run of the UNet works on, whatever it makes: embeddings, guidance, seeds, and first latents.

Legend: B samples · C latent channels · h, w latent height and width · E embedding width
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.batch import as_latents, per_sample
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.prior.embeds import as_embeds
from kandinsky_runtime.sampling import guidance

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SampleRequest:
    """What one run of the UNet works on; every array is float32.

    Attributes:
        image_embeds, negative_image_embeds: (B, E); the latter is empty without guidance, and both are where a prior
            makes them first.
        guidance_scale: weight of the guidance; 1 and below: none.
        seeds: one for each sample.
        latents: initial noise (B, C, h, w), or None to draw it.
        latent_shape: (B, C, h, w).
    """

    image_embeds: Array
    negative_image_embeds: Array
    guidance_scale: float
    seeds: tuple[int, ...]
    latents: Array | None
    latent_shape: tuple[int, int, int, int]

    @property
    def batch(self) -> int:
        """B."""
        return self.latent_shape[0]

    @property
    def guided(self) -> bool:
        """Whether the UNet runs on [negative, positive] halves."""
        return guidance.is_guided(self.guidance_scale)

    def checked_latents(self, latents: npt.ArrayLike) -> Array:
        """Latents from a callback as a float32 array of this request's shape, a copy.

        Raises:
            InputError: another shape, not numeric, or not finite.
        """
        return as_latents("latents from callback_on_step_end", latents, self.latent_shape)


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
    """`per_sample`, and nothing where there are none."""
    return per_sample(embeds, prompts, repeats) if len(embeds) else embeds

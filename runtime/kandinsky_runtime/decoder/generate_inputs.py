"""The pictures, embeddings and seeds of text-to-image and image-to-image become one checked request.

Legend: B samples · C latent channels · h, w latent height and width · H, W height and width of the result
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.batch import as_list
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.decoder.options import GenerateOptions
from kandinsky_runtime.decoder.request import Request, Samples
from kandinsky_runtime.errors import InputError
from kandinsky_runtime.pictures.image import fit, read_picture, to_pil, without_alpha
from kandinsky_runtime.pictures.sizes import picture_size
from kandinsky_runtime.sampling.schedulers import Sampler

Array = npt.NDArray[np.float32]

STRENGTH = 0.3  # diffusers' default
SIDE = 512  # of a result without a picture: diffusers' default


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(Request):
    """The checked inputs of one run of text-to-image or image-to-image; every array is float32.

    Attributes:
        sources: the different pictures to change.
    """

    sources: tuple[Image.Image, ...] = ()

    def begin(self, noise: Array, encoded: Array, sampler: Sampler) -> tuple[Array, KeptArea | None]:
        """Noise, or the pictures' latents at the noise level of the first step taken; see `Request.begin`."""
        if not len(encoded):
            return noise * np.float32(sampler.init_noise_sigma), None
        return sampler.add_noise(sampler.first, encoded, noise), None

    def finished(self, decoded: Array, output_type: str) -> list[Image.Image] | Array:
        """The decoder's pictures, "pil" with the profiles of their sources; see `Request.finished`."""
        if output_type == "np":
            return decoded
        images = to_pil(decoded)
        for image, picture in zip(images, self.picture_of, strict=False):
            image.info.update(self.sources[picture].info)
        return images


def prepare_generate(geometry: Geometry, options: GenerateOptions, prompt_count: int = 0) -> GenerateRequest:
    """Check a run's inputs and bring them to the shapes of the loop.

    Args:
        geometry: the bundle's.
        options: the run's.
        prompt_count: prompts whose embeddings a prior makes afterwards; 0 if embeddings are given.

    Raises:
        InputError: an input that cannot be used; the message says what was got and what is expected.
        UsageError: the same for an option.
    """
    first = 0
    if options.image is not None:
        first = first_step(options.num_inference_steps, STRENGTH if options.strength is None else options.strength)
    images = [] if options.image is None else as_list("image", options.image)
    samples = Samples.of(geometry, options, prompt_count, image=images)
    read = [read_picture(source, max_pixels=options.max_pixels) for source in images]
    sizes = [picture.image.size for picture in read] or [(SIDE, SIDE)]
    height, width = picture_size(sizes, options.height, options.width, options.max_pixels)
    pictures = [fit(without_alpha(picture.image), width=width, height=height) for picture in read]
    common = samples.common(geometry, options, pictures, range(len(pictures)), height, width)
    return GenerateRequest(
        **common,
        first_step=first,
        sources=tuple(pictures),
        notes=tuple(note for picture in read for note in picture.notes),
    )


def first_step(steps: int, strength: float) -> int:
    """The step to begin with, from 0: image-to-image takes the last int(steps · strength), as diffusers does.

    Raises:
        InputError: the strength leaves no step.
    """
    taken = int(steps * strength)
    if taken < 1:
        raise InputError(f"strength {strength:g} of {steps} steps leaves none; give more of either")
    return steps - taken

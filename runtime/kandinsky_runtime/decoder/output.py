"""What a run returns, and how the decoder's pictures become it.

Legend: B samples · H, W height and width of the result in pixels · C, h, w those of the latents
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_runtime.decoder.inpaint_inputs import Request
from kandinsky_runtime.pictures.image import to_pil
from kandinsky_runtime.pictures.mask import paste, paste_pixels

Array = npt.NDArray[np.float32]

OUTPUT_TYPES = ("pil", "np", "latent")
COMPOSITES = ("paste", "none")


@dataclass(frozen=True)
class PipelineOutput:
    """What a run returns.

    Attributes:
        images: a list of B PIL pictures; float32 (B, H, W, 3) in [0, 1] for `output_type="np"`; float32 latents
            (B, C, h, w) for "latent".
        seeds: the seed of each sample, None where the noise came from a source of the caller's.
        notes: what the user should know, one sentence each.
        seconds: time spent in `encode`, `denoise` and `decode`, in the UNet alone (`unet`), and for a prompt in
            `encode_text`, `encode_pictures` and `prior`, as far as they ran.
    """

    images: Any
    seeds: tuple[int | None, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


class InpaintOutput(PipelineOutput):
    """What a run of inpainting returns."""


class GenerateOutput(PipelineOutput):
    """What a run of text-to-image or image-to-image returns."""


def finished(decoded: Array, request: Request, output_type: str, composite: str) -> list[Image.Image] | Array:
    """The decoder's pictures, float32 (B, H, W, 3) in [0, 1], as "pil" or "np"; "paste" puts the kept pixels back."""
    if output_type == "np":
        return decoded if composite == "none" else paste_pixels(_floats(request), decoded, request.masks)
    pictures = to_pil(decoded)
    if composite == "none":
        return pictures
    return [paste(*item) for item in zip(request.originals, pictures, request.masks, strict=True)]


def unchanged(request: Request, output_type: str) -> list[Image.Image] | Array:
    """The pictures that came in, as "pil" or "np"; copies, so that no two results are one object."""
    return _floats(request) if output_type == "np" else [picture.copy() for picture in request.originals]


def _floats(request: Request) -> Array:
    """The originals as float32 (B, H, W, 3) in [0, 1]."""
    pictures: Array = np.stack([np.asarray(picture) for picture in request.originals]).astype(np.float32)
    pictures /= 255
    return pictures

"""What a run returns.

Legend: B samples · H, W height and width of the result in pixels · C, h, w those of the latents
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kandinsky_runtime.decoder.inpaint_sources import MaskReport


@dataclass(frozen=True)
class PipelineOutput:
    """What a run returns.

    Attributes:
        images: a list of B PIL pictures; float32 (B, H, W, 3) in [0, 1] for `output_type="np"`; float32 latents
            (B, C, h, w) for "latent".
        seeds: the seed of each sample, None if the noise came from a source of the caller's.
        notes: what the user should know, one sentence each.
        seconds: the time spent in `load`, `encode`, `denoise` and `decode`, in the UNet alone (`unet`), and for a
            prompt in `encode_text`, `encode_pictures` and `prior`; phases that did not run are missing.
        failures: what could not be done after the pictures were finished, such as to write the recording of the noise,
            one sentence each; they are among the notes.
    """

    images: Any
    seeds: tuple[int | None, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    failures: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class InpaintOutput(PipelineOutput):
    """What a run of inpainting returns.

    Attributes:
        masks: what was understood of the mask of each sample: the rule, and the share of the picture repainted.
    """

    masks: tuple[MaskReport, ...] = ()


class GenerateOutput(PipelineOutput):
    """What a run of text-to-image or image-to-image returns."""

"""The options of a run: one frozen object for each task.

Every option is declared once, with its default, its text, its check and its spelling on the command line. The Python
call, the command line and the benchmark fill these objects. docs/developing.md shows how to add an option.

The module loads nothing but the standard library, so that `--help` stays quick.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kandinsky_runtime.checks import flag
from kandinsky_runtime.decoder.declarations import check_values, documented, option
from kandinsky_runtime.decoder.option_values import (
    edges,
    four_edges,
    interval,
    one_of,
    real,
    whole,
    writable,
)
from kandinsky_runtime.errors import InputError, UsageError
from kandinsky_runtime.limits import MAX_PIXELS, MAX_RESULTS, MIN_SIZE

if TYPE_CHECKING:
    import numpy.typing as npt

    from kandinsky_runtime.sampling.noise import NoiseSource

OUTPUT_TYPES = ("pil", "np", "latent")
COMPOSITES = ("paste", "blend", "none")
INPAINT_AREAS = ("picture", "mask")
MASK_MODES = ("auto", "alpha", "white", "black")
_MAX_GUIDANCE = 1000  # far beyond any use; the numbers of a run stay finite


def _side(name: str, default: str) -> Any:
    """Declare the result's height or width; `default` describes the size that None means."""
    return option(
        None,
        f"{name} of the result in pixels, at least {MIN_SIZE} (default: {default})",
        check=whole(MIN_SIZE),
        spelling=f"--{name}",
        metavar="PX",
        parse=int,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderOptions:
    """The options that every run of the decoder has.

    Raises:
        InputError: an input that cannot be used.
        UsageError: an option with an invalid value, or options that exclude each other.
    """

    title: ClassVar[str]
    """The name of the progress bar."""

    prompt: Any = option(
        None,
        "a text, a picture (no path), or a `Mix` of both; the bundle's prior turns it into embeddings, with the first"
        " numbers of each seed's noise",
    )
    negative_prompt: str | Sequence[str] | None = option(None, "what not to show; needs a prompt")
    image_embeds: npt.ArrayLike | None = option(None, "CLIP image embeddings, (E,) or (B, E), instead of a prompt")
    negative_image_embeds: npt.ArrayLike | None = option(
        None,
        "embeddings of the negative prompt; needed if `guidance_scale` is above 1, unless the bundle has those of an"
        " empty picture",
    )
    prior_num_inference_steps: int | None = option(
        None,
        "steps of the prior (default: 25)",
        check=whole(2),
        spelling="--prior-num-inference-steps",
        group="prompt",
        metavar="N",
        parse=int,
    )
    prior_guidance_scale: float | None = option(
        None,
        "guidance scale of the prior, at most 1000; 1 turns guidance off (default: 4)",
        check=real(0, _MAX_GUIDANCE),
        spelling="--prior-guidance-scale",
        group="prompt",
        metavar="W",
        parse=float,
    )
    height: int | None = _side("height", "the picture's")
    width: int | None = _side("width", "the picture's")
    num_inference_steps: int = option(
        100, "number of denoising steps", check=whole(1), spelling="--num-inference-steps", metavar="N", parse=int
    )
    guidance_scale: float = option(
        4.0,
        "weight of classifier-free guidance, at most 1000; 1 and below turn it off",
        check=real(0, _MAX_GUIDANCE),
        spelling="--guidance-scale",
        metavar="W",
        parse=float,
    )
    guidance_interval: tuple[float, float] | None = option(
        None,
        "noise levels (low, high] that are guided, such as 0.3:5; the other steps cost half as much (default: all)",
        spelling="--guidance-interval",
        metavar="LOW:HIGH",
        parse=interval,
        python="a pair such as (0.3, 5)",
    )
    scheduler: str | None = option(
        None,
        "one of `SCHEDULERS` or a diffusers class name (default: the checkpoint's)",
    )
    num_images_per_prompt: int = option(
        1,
        "number of results for each prompt or picture",
        check=whole(1, MAX_RESULTS),
        spelling="--num-images",
        metavar="N",
        parse=int,
    )
    seed: int | Sequence[int] | npt.NDArray[Any] | None = option(
        None,
        "seed of the first result's noise; the other results take the numbers after it (default: random, and printed)",
        spelling="--seed",
        metavar="N",
        parse=int,
        python="a list has one seed for each result; the output has the seeds that were used",
    )
    noise: str | NoiseSource = option(
        "torch", 'the kind of noise: "torch" (the numbers of `torch.Generator("cpu")`), "numpy", or a `NoiseSource`'
    )
    record_noise: str | os.PathLike[str] | None = option(
        None, "an .npz file to write every draw of the noise to, for `ReplayNoise`", check=writable
    )
    latents: npt.ArrayLike | None = option(
        None, "initial noise (B, C, h, w) instead of a drawn one; the later draws are those of the seed"
    )
    output_type: Literal["pil", "np", "latent"] = option(
        "pil",
        'results as "pil" pictures, "np" arrays (B, H, W, 3) in [0, 1], or "latent" arrays (B, C, h, w)',
        check=one_of(OUTPUT_TYPES),
    )

    max_pixels: int = option(
        MAX_PIXELS,
        "most pixels of a picture that is read, of a mask and of a result",
        check=whole(1),
        spelling="--max-pixels",
        group="files",
        metavar="N",
        parse=int,
    )
    metadata: bool = option(
        True,
        "whether results say how they were made, in `info` and in the file: seed, prompt, steps, scheduler, guidance,"
        " size and bundle",
        check=flag,
        spelling="--no-metadata",
        turned_off="do not write into the files how they were made, such as seed, prompt and steps",
        group="files",
    )

    def __post_init__(self) -> None:
        check_values(self)
        self._check_conditioning()

    def _check_conditioning(self) -> None:
        """A prompt or embeddings, not both, and nothing that belongs to the other."""
        if self.prompt is None:
            if self.image_embeds is None:
                raise InputError("there is no prompt and no image_embeds; give one of them")
            if self.negative_prompt is not None:
                raise UsageError("negative_prompt goes with a prompt; give negative_image_embeds with image_embeds")
            if self.prior_num_inference_steps is not None or self.prior_guidance_scale is not None:
                raise UsageError("prior_num_inference_steps and prior_guidance_scale go with a prompt; leave them out")
        elif self.image_embeds is not None or self.negative_image_embeds is not None:
            raise UsageError("a prompt takes the place of image_embeds and negative_image_embeds; give one of the two")


@dataclass(frozen=True, kw_only=True, eq=False)
class InpaintOptions(DecoderOptions):
    """The options of a run of inpainting.

    A list of prompts, pictures, masks, embeddings or seeds is a batch, each sample with its own. A single one is used
    for every sample.
    """

    title: ClassVar[str] = "inpainting"

    image: Any = option(None, "the picture: a path, a Pillow picture or an array; or a list of them")
    mask_image: Any = option(
        None, "the mask: white (1) is repainted, black (0) is kept; a path, a Pillow picture or an array; or a list"
    )
    mask_mode: Literal["auto", "alpha", "white", "black"] = option(
        "auto",
        "what of the mask is repainted: alpha is what is transparent; auto is alpha for a picture with a transparent"
        " hole, else white",
        check=one_of(MASK_MODES),
        spelling="--mask-mode",
        group="files",
        choices=MASK_MODES,
    )
    invert_mask: bool = option(
        False,
        "swap what the mask repaints and what it keeps; white masks are then read as diffusers did before 0.19",
        check=flag,
        spelling="--invert-mask",
        group="files",
    )
    composite: Literal["paste", "blend", "none"] = option(
        "paste",
        "paste keeps the pixels outside the mask bit for bit; blend takes grey levels of the mask as shares of old and"
        " new; none returns the decoder's picture",
        check=one_of(COMPOSITES),
        spelling="--composite",
        group="files",
        choices=COMPOSITES,
    )
    mask_blur: float | None = option(
        None,
        "blur of the mask's edge in pixels, the standard deviation of a Gaussian; implies blend (default: none)",
        check=real(0, 1000),
        spelling="--mask-blur",
        group="files",
        metavar="PX",
        parse=float,
    )
    expand: Sequence[int] | None = option(
        None,
        "pixels to add to the picture and to paint, at its left, top, right and bottom, such as 0,0,128,0; a mask is"
        " not needed then",
        check=edges,
        spelling="--expand",
        group="files",
        metavar="L,T,R,B",
        parse=four_edges,
        python="a tuple such as (0, 0, 128, 0)",
    )
    inpaint_area: Literal["picture", "mask"] = option(
        "picture",
        "mask works on a crop around the mask and pastes it back; height and width, if given, are then the size that"
        " the crop is resized to",
        check=one_of(INPAINT_AREAS),
        spelling="--inpaint-area",
        choices=INPAINT_AREAS,
    )
    padding_mask_crop: int | None = option(
        None,
        "pixels of the picture around the mask that a crop includes (default: 32)",
        check=whole(0, MAX_PIXELS),
        spelling="--padding-mask-crop",
        metavar="PX",
        parse=int,
    )

    def __post_init__(self) -> None:
        needed = ("image", "mask_image") if self.expand is None else ("image",)
        if missing := [name for name in needed if getattr(self, name) is None]:
            raise UsageError(f"{' and '.join(missing)} must be given")
        super().__post_init__()
        if self.mask_image is None and (self.mask_mode != "auto" or self.invert_mask):
            raise UsageError("mask_mode and invert_mask are for a mask, and there is none; leave them out")
        if self.mask_blur is not None:
            if self.composite == "none":
                raise UsageError("mask_blur softens a blend, and composite is 'none'; leave one of them out")
            object.__setattr__(self, "composite", "blend")
        if self.inpaint_area == "picture" and self.padding_mask_crop is not None:
            raise UsageError("padding_mask_crop is for inpaint_area 'mask' only; leave it out or ask for that area")
        if self.inpaint_area == "mask" and (self.height is None) != (self.width is None):
            raise UsageError(
                f"height is {self.height} and width is {self.width}; with inpaint_area 'mask' give both, the size to"
                " work at, or none"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerateOptions(DecoderOptions):
    """The options of a run of text-to-image or image-to-image.

    A list of prompts, pictures, embeddings or seeds is a batch, each sample with its own. A single one is used for
    every sample.
    """

    title: ClassVar[str] = "generating"

    height: int | None = _side("height", "the picture's, or 512")
    width: int | None = _side("width", "the picture's, or 512")

    image: Any = option(
        None, "a picture to change (image-to-image): a path, a Pillow picture or an array; or a list of them"
    )
    strength: float | None = option(
        None,
        "strength of the change to the picture, above 0 and up to 1: the share of the steps taken (default: 0.3)",
        check=real(0, 1, exclusive=True),
        spelling="--strength",
        group="files",
        metavar="S",
        parse=float,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strength is not None and self.image is None:
            raise InputError("strength goes with a picture to change; give image, or leave strength out")


documented(InpaintOptions)
documented(GenerateOptions)

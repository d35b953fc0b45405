"""A whole trajectory of a bundle, compared with the eager one that had the same noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_export.random_weights.sample_picture import sample_picture
from kandinsky_export.random_weights.seeded import seeded_embeds
from kandinsky_export.verification.decibels import decibels
from kandinsky_export.verification.reference import EagerTrajectory, Reference
from kandinsky_export.verification.report import TrajectoryFigures
from kandinsky_runtime.bundle.geometry import Geometry
from kandinsky_runtime.decoder.generate import GeneratePipeline
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.output import PipelineOutput
from kandinsky_runtime.limits import MIN_SIZE
from kandinsky_runtime.sampling.noise import NoiseSource, NumpyNoise, ReplayNoise

Array = npt.NDArray[np.float32]

GUIDANCE_SCALE = 4.0
SEED = 0


def eager_trajectory(
    reference: Reference, geometry: Geometry, steps: int, source: NoiseSource | None = None
) -> EagerTrajectory:
    """The reference's run on the sample picture, or without a picture if the bundle's decoder takes none.

    Args:
        reference: the checkpoint's models in eager ppdiffusers.
        geometry: the bundle's.
        steps: denoising steps.
        source: the noise source; None for numpy's generator with `SEED`.
    """
    image, mask = sample_inputs(geometry)
    embeds = seeded_embeds(SEED, geometry.embed_width)
    both = embeds["image_embeds"], embeds["negative_image_embeds"]
    source = NumpyNoise(SEED) if source is None else source
    if not geometry.sees_kept_area:
        return reference.generate(image.size, *both, source=source, steps=steps, guidance_scale=GUIDANCE_SCALE)
    return reference.inpaint(image, mask, *both, source=source, steps=steps, guidance_scale=GUIDANCE_SCALE)


def compare_trajectory(
    pipeline: InpaintPipeline | GeneratePipeline, eager: EagerTrajectory, geometry: Geometry
) -> TrajectoryFigures:
    """Run the bundle on the eager run's inputs and noise, and compare step by step."""
    image, mask = sample_inputs(geometry)
    latents: list[Array] = []

    def on_step_end(_: object, __: int, ___: float, values: dict[str, Array]) -> None:
        latents.append(values["latents"].copy())

    embeds = seeded_embeds(SEED, geometry.embed_width)
    if isinstance(pipeline, InpaintPipeline):
        call: Callable[..., PipelineOutput] = partial(pipeline, image=image, mask_image=mask, composite="none")
    else:
        call = partial(pipeline, height=image.height, width=image.width)
    output = call(
        image_embeds=embeds["image_embeds"],
        negative_image_embeds=embeds["negative_image_embeds"],
        num_inference_steps=len(eager.latents),
        guidance_scale=GUIDANCE_SCALE,
        scheduler="ddpm",  # the reference's, whatever the checkpoint's is
        noise=ReplayNoise(eager.noise),
        output_type="np",
        callback_on_step_end=on_step_end,
    )
    unet = pipeline.engine("unet")
    errors = [max_abs(mine, want) for mine, want in zip(latents, eager.latents, strict=True)]
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
    psnr = decibels(eager.image, output.images, peak=1)
    return TrajectoryFigures(
        steps=len(errors),
        encoded=None
        if eager.encoded is None
        else max_abs(pipeline.engine("movq_encoder").run({"image": pixels})["latents"], eager.encoded),
        unet=tuple(
            max_abs(unet.run(feeds)["noise_pred"], want)
            for feeds, want in zip(eager.unet_feeds, eager.unet_outputs, strict=True)
        ),
        latents=tuple(errors),
        latents_relative=tuple(
            error / float(np.abs(want).max()) for error, want in zip(errors, eager.latents, strict=True)
        ),
        image=max_abs(output.images, eager.image),
        psnr=psnr if math.isfinite(psnr) else None,
    )


def sample_inputs(geometry: Geometry) -> tuple[Image.Image, Image.Image]:
    """The sample picture and its mask, of a size that neither side pads."""
    side = math.lcm(MIN_SIZE, geometry.multiple, geometry.factor**2)  # ppdiffusers rounds up to factor²
    return sample_picture(width=2 * side, height=side)


def max_abs(got: Array, want: Array) -> float:
    """The largest absolute difference."""
    return float(np.abs(got - want).max())

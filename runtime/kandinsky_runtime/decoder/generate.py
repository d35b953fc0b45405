"""Text-to-image and image-to-image: a prompt or embeddings, and perhaps a picture, become a new picture."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.manifest import IMAGE_TO_IMAGE, TEXT_TO_IMAGE
from kandinsky_runtime.checks import choice, whole_number
from kandinsky_runtime.decoder import movq
from kandinsky_runtime.decoder.denoise import DenoisingLoop
from kandinsky_runtime.decoder.generate_inputs import GenerateRequest, first_step, prepare
from kandinsky_runtime.decoder.output import OUTPUT_TYPES, GenerateOutput
from kandinsky_runtime.decoder.pipeline import DecoderPipeline, check_recording_path, save_recording
from kandinsky_runtime.observers import Clock, StepCallback, Watch
from kandinsky_runtime.pictures.image import to_pil
from kandinsky_runtime.sampling import guidance
from kandinsky_runtime.sampling.noise import NoiseSource, RunNoise
from kandinsky_runtime.sampling.schedulers import Sampler

Array = npt.NDArray[np.float32]


class GeneratePipeline(DecoderPipeline):
    """A bundle of a plain decoder with an engine, ready to make pictures; also a context manager, and safe to share
    between threads.

    Make one with `GeneratePipeline.load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    tasks: ClassVar[tuple[str, ...]] = (TEXT_TO_IMAGE, IMAGE_TO_IMAGE)

    def __call__(
        self,
        prompt: Any = None,
        *,
        image: Any = None,
        strength: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        image_embeds: npt.ArrayLike | None = None,
        negative_image_embeds: npt.ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        guidance_interval: tuple[float, float] | None = None,
        prior_num_inference_steps: int | None = None,
        prior_guidance_scale: float | None = None,
        scheduler: str | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        noise: str | NoiseSource = "torch",
        record_noise: str | os.PathLike[str] | None = None,
        latents: npt.ArrayLike | None = None,
        output_type: Literal["pil", "np", "latent"] = "pil",
        callback_on_step_end: StepCallback | None = None,
        cancel: threading.Event | None = None,
        progress: bool = False,
    ) -> GenerateOutput:
        """Make a picture from a prompt, or change one.

        A list of prompts, pictures, embeddings or seeds is a batch, each sample with its own; what is given once serves
        every sample.

        Args:
            prompt: a text, a picture (no path), or a `Mix` of both; the bundle's prior makes embeddings of it, with the
                first numbers of each seed.
            image: what to change, for image-to-image: a path, a PIL picture or an array; or a list of them.
            strength: of the change, above 0 and up to 1, with `image`: the share of the steps that are taken; None is
                0.3.
            negative_prompt: what not to show, with a prompt.
            image_embeds: CLIP image embeddings of a prior, (E,) or (B, E), in place of a prompt.
            negative_image_embeds: the same for the negative prompt; needed where `guidance_scale` is above 1, unless
                the bundle has those of no picture.
            height, width: of the result in pixels, at least 64; None takes the picture's, or 512.
            num_inference_steps: denoising steps; image-to-image takes the last of them.
            guidance_scale: weight of classifier-free guidance; 1 and below turn it off.
            guidance_interval: noise levels (low, high] at which guidance acts, such as (0.3, 5); at the others the UNet
                runs on the positive half alone, which halves a step's work. None guides at every step.
            prior_num_inference_steps, prior_guidance_scale: of the prior's loop, with a prompt; None takes 25 and 4.
            scheduler: one of `schedulers.NAMES` or a diffusers class name; None takes the checkpoint's.
            num_images_per_prompt: results for each sample.
            seed: of the noise. A number is the first result's, its successors are the others'; a list has one for each
                result. None draws one; the output tells it.
            noise: "torch" for the numbers of `torch.Generator("cpu")`, "numpy", or a source to draw from.
            record_noise: a file to write every draw to, for `ReplayNoise`, at the end.
            latents: initial noise (B, C, h, w) instead of a drawn one; the other draws are those of the seed.
            output_type: "pil", "np" or "latent".
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step, with a copy of
                the latents; it may change them or return {"latents": …} to go on with.
            cancel: an event that stops the run between two steps.
            progress: show a bar of the steps on stderr.

        Returns:
            Pictures, seeds, notes and times.

        Raises:
            InputError: an input that cannot be used.
            UsageError: an option that cannot be meant, or something that the bundle cannot do.
            EngineError, NonFiniteError: a graph could not be loaded or run, or returned no finite numbers.
            Cancelled: `cancel` was set.
        """
        self.bundle.require(TEXT_TO_IMAGE if image is None else IMAGE_TO_IMAGE)
        choice("output_type", output_type, OUTPUT_TYPES)
        watch = Watch(callback_on_step_end, cancel, progress, "generating")
        steps = whole_number("num_inference_steps", num_inference_steps, 1)
        first = first_step(steps, strength, image)
        method = self._method(scheduler)
        plan, image_embeds, negative_image_embeds = self._conditions(
            prompt,
            negative_prompt,
            image_embeds,
            negative_image_embeds,
            prior_num_inference_steps,
            prior_guidance_scale,
        )
        request = prepare(
            self.geometry,
            image=image,
            image_embeds=image_embeds,
            negative_image_embeds=negative_image_embeds,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            seed=seed,
            latents=latents,
            prompt_count=0 if plan is None else len(plan.prompts),
        )
        sampler = method.sampler(steps, request.latent_shape, first=first)
        interval = guidance.Interval.checked(guidance_interval, request.guidance_scale)
        if interval is not None:
            interval.check_steps([sampler.sigma(i) for i in range(sampler.first, steps)])
        check_recording_path(record_noise)
        drawn = RunNoise(noise, request.seeds, recorded=record_noise is not None)
        notes = () if plan is None else plan.notes

        clock = Clock()
        loop = DenoisingLoop(self.graphs, sampler, drawn.batch, method.predicts_variance, watch, clock, self, interval)
        with self.graphs.run():
            request = self._embedded(request, plan, num_images_per_prompt, drawn, watch, clock)
            with clock("load"):
                self.graphs.load(
                    [
                        *(["movq_encoder"] if len(request.pixels) else []),
                        "unet",
                        *([] if output_type == "latent" else ["movq_decoder"]),
                    ]
                )
            with clock("encode"):
                pictures = self._encode(request)
            with clock("denoise"):
                noise_drawn = drawn.batch.draw(request.latent_shape) if request.latents is None else request.latents
                final = loop.run(request, _begin(noise_drawn, pictures, sampler))
            self.graphs.phase_over("unet")
            images: Any = final
            if output_type != "latent":
                with clock("decode"):
                    images = movq.decode(self.graphs, final, request.height, request.width, self.tiling)
                if output_type == "pil":
                    images = to_pil(images)
        save_recording(drawn, record_noise)
        return GenerateOutput(images, drawn.seeds, notes, clock.seconds)

    def _encode(self, request: GenerateRequest) -> Array | None:
        """Latents (B, C, h, w) of the samples' pictures, where there are any."""
        if not len(request.pixels):
            return None
        return movq.encode(self.graphs, request.pixels, self.tiling)[list(request.picture_of)]


def _begin(noise: Array, pictures: Array | None, sampler: Sampler) -> Array:
    """The latents to begin with: noise, or the pictures' latents at the noise level of the first step taken."""
    if pictures is None:
        return noise * np.float32(sampler.init_noise_sigma)
    return sampler.add_noise(sampler.first, pictures, noise)

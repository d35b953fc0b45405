"""Inpainting: a picture, a mask and a prompt or embeddings become a new picture."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.bundle.manifest import COMPONENTS, INPAINT
from kandinsky_runtime.checks import choice, whole_number
from kandinsky_runtime.decoder import movq
from kandinsky_runtime.decoder.denoise import DenoisingLoop
from kandinsky_runtime.decoder.inpaint_inputs import Request, prepare
from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.decoder.output import COMPOSITES, OUTPUT_TYPES, InpaintOutput, finished, unchanged
from kandinsky_runtime.decoder.pipeline import DecoderPipeline, check_recording_path, save_recording
from kandinsky_runtime.errors import UsageError
from kandinsky_runtime.observers import Clock, StepCallback, Watch
from kandinsky_runtime.pictures.area import INPAINT_AREAS, Areas, around_masks
from kandinsky_runtime.sampling import guidance
from kandinsky_runtime.sampling.noise import NoiseSource, RunNoise

Array = npt.NDArray[np.float32]

_log = logging.getLogger(__name__)


class InpaintPipeline(DecoderPipeline):
    """A bundle with an engine, ready to inpaint; also a context manager, and safe to share between threads.

    Make one with `InpaintPipeline.load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    tasks: ClassVar[tuple[str, ...]] = (INPAINT,)

    def __call__(
        self,
        *inputs: Any,
        prompt: Any = None,
        image: Any = None,
        mask_image: Any = None,
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
        composite: Literal["paste", "none"] = "paste",
        invert_mask: bool = False,
        inpaint_area: Literal["picture", "mask"] = "picture",
        padding_mask_crop: int | None = None,
        callback_on_step_end: StepCallback | None = None,
        cancel: threading.Event | None = None,
        progress: bool = False,
    ) -> InpaintOutput:
        """Repaint the white area of a mask.

        A list of prompts, pictures, masks, embeddings or seeds is a batch, each sample with its own; what is given once
        serves every sample.

        Args:
            inputs: `pipe(prompt, image=…, mask_image=…)`, `pipe(prompt, image, mask_image)`, or with embeddings
                `pipe(image, mask_image, image_embeds=…)`.
            prompt: a text, a picture (no path), or a `Mix` of both; the bundle's prior makes embeddings of it, with the
                first numbers of each seed.
            image: a path, a PIL picture or an array; or a list of them.
            mask_image: white (1) is repainted, black (0) kept; a path, a PIL picture or an array; or a list of them.
            negative_prompt: what not to show, with a prompt.
            image_embeds: CLIP image embeddings of a prior, (E,) or (B, E), in place of a prompt.
            negative_image_embeds: the same for the negative prompt; needed where `guidance_scale` is above 1, unless
                the bundle has those of no picture.
            height: of the result in pixels, at least 64; None takes the picture's.
            width: of the result in pixels, at least 64; None takes the picture's.
            num_inference_steps: denoising steps.
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
            composite: "paste" keeps every pixel outside the mask as it was; "none" returns the decoder's picture. Where
                no mask has anything to repaint, the pictures are returned as they are, and a note says so.
            invert_mask: the mask is black where it is to be repainted, as diffusers before 0.19 had it.
            inpaint_area: "picture" works on the whole picture; "mask" on a crop around what the mask repaints, and the
                result has the picture's own size. `height` and `width` are then the size to work at, both or none:
                None takes the crop's own resolution. "latent" results are those of the crop, and `composite` "none"
                replaces all of it.
            padding_mask_crop: pixels of the picture around what the mask repaints, for `inpaint_area` "mask"; None
                takes 32.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step, with a copy of
                the latents; it may change them or return {"latents": …} to go on with.
            cancel: an event that stops the run between two steps.
            progress: show a bar of the steps on stderr.

        Returns:
            Pictures, seeds, notes and times.

        Raises:
            InputError: an input that cannot be used.
            UsageError: an option that cannot be meant.
            EngineError, NonFiniteError: a graph could not be loaded or run, or returned no finite numbers.
            Cancelled: `cancel` was set.
        """
        prompt, image, mask_image = _named(inputs, prompt, image, mask_image)
        choice("output_type", output_type, OUTPUT_TYPES)
        choice("composite", composite, COMPOSITES)
        watch = Watch(callback_on_step_end, cancel, progress, "inpainting")
        steps = whole_number("num_inference_steps", num_inference_steps, 1)
        method = self._method(scheduler)
        plan, image_embeds, negative_image_embeds = self._conditions(
            prompt,
            negative_prompt,
            image_embeds,
            negative_image_embeds,
            prior_num_inference_steps,
            prior_guidance_scale,
        )
        choice("inpaint_area", inpaint_area, INPAINT_AREAS)
        areas = None
        if inpaint_area == "mask":
            areas = around_masks(
                image,
                mask_image,
                multiple=self.geometry.multiple,
                height=height,
                width=width,
                padding=padding_mask_crop,
                invert_mask=invert_mask,
            )
            areas.check_output_type(output_type)
            (image, mask_image), (width, height), invert_mask = areas.crops(), areas.working, False
        elif padding_mask_crop is not None:
            raise UsageError("padding_mask_crop is for inpaint_area 'mask' only; leave it out or ask for that area")
        request = prepare(
            self.geometry,
            image=image,
            mask_image=mask_image,
            image_embeds=image_embeds,
            negative_image_embeds=negative_image_embeds,
            height=height,
            width=width,
            guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt,
            seed=seed,
            latents=latents,
            invert_mask=invert_mask,
            prompt_count=0 if plan is None else len(plan.prompts),
        )
        sampler = method.sampler(steps, request.latent_shape)
        interval = guidance.Interval.checked(guidance_interval, request.guidance_scale)
        if interval is not None:
            interval.check_steps([sampler.sigma(i) for i in range(sampler.first, steps)])
        check_recording_path(record_noise)
        drawn = RunNoise(noise, request.seeds, recorded=record_noise is not None)
        notes = request.notes if plan is None else (*plan.notes, *request.notes)
        for note in request.notes:
            _log.warning(note)

        clock = Clock()
        loop = DenoisingLoop(self.graphs, sampler, drawn.batch, method.predicts_variance, watch, clock, self, interval)
        with self.graphs.run():
            if request.keeps_everything:
                untouched = self._untouched(request, areas, output_type)
                return InpaintOutput(untouched, drawn.seeds, notes, clock.seconds)
            request = self._embedded(request, plan, num_images_per_prompt, drawn, watch, clock)
            with clock("load"):
                self.graphs.load(("movq_encoder", "unet") if output_type == "latent" else COMPONENTS)
            with clock("encode"):
                original = self._encode(request)
            with clock("denoise"):
                first = drawn.batch.draw(request.latent_shape) if request.latents is None else request.latents
                kept = KeptArea(original, request.keep, first, sampler)
                final = loop.run(request, first * np.float32(sampler.init_noise_sigma), kept)
            self.graphs.phase_over("unet")
            images: Any = final
            if output_type != "latent":
                with clock("decode"):
                    pictures = movq.decode(self.graphs, final, request.height, request.width, self.tiling)
                    if areas is None:
                        images = finished(pictures, request, output_type, composite)
                    else:
                        images = areas.finished(pictures, output_type, composite)
        save_recording(drawn, record_noise)
        return InpaintOutput(images, drawn.seeds, notes, clock.seconds)

    def _untouched(self, request: Request, areas: Areas | None, output_type: str) -> Any:
        """What comes out where nothing is repainted: the pictures that came in, or their latents."""
        if output_type == "latent":
            return self._encode(request)
        return unchanged(request, output_type) if areas is None else areas.unchanged(request.batch, output_type)

    def _encode(self, request: Request) -> Array:
        """Latents (B, C, h, w) of the samples' pictures."""
        return movq.encode(self.graphs, request.pixels, self.tiling)[list(request.picture_of)]


def _named(inputs: tuple[Any, ...], prompt: Any, image: Any, mask_image: Any) -> tuple[Any, Any, Any]:
    """Prompt, picture and mask from what was given by position and by name.

    Raises:
        UsageError: something is given twice, or picture or mask is missing.
    """
    named = {"prompt": prompt, "image": image, "mask_image": mask_image}
    if len(inputs) == 3:
        order: tuple[str, ...] = ("prompt", "image", "mask_image")
    elif len(inputs) == 1 and image is not None:
        order = ("prompt",)
    else:
        order = ("image", "mask_image")
    if len(inputs) > 3 or any(named[name] is not None for name in order[: len(inputs)]):
        raise UsageError(
            f"got {len(inputs)} inputs by position beside others by name; give prompt, image and mask_image"
        )
    named |= dict(zip(order, inputs, strict=False))
    if missing := [name for name in ("image", "mask_image") if named[name] is None]:
        raise UsageError(f"{' and '.join(missing)} must be given")
    return named["prompt"], named["image"], named["mask_image"]

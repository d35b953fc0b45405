"""The denoising loop of Kandinsky 2.2 inpainting, in numpy around compiled graphs.

Legend: B samples · C latent channels · h, w latent height and width · H, W picture height and width (padded)
        f = H / h, MoVQ's factor · E embedding width
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from kandinsky_runtime import guidance, schedulers
from kandinsky_runtime.bundle import Bundle
from kandinsky_runtime.engines import AUTO, Selection, select
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.errors import Cancelled, UsageError
from kandinsky_runtime.image import from_model, to_pil
from kandinsky_runtime.inputs import Geometry, Request, prepare
from kandinsky_runtime.mask import paste, paste_pixels
from kandinsky_runtime.noise import BatchNoise, NoiseSource, RecordingNoise, make_noise

Array = npt.NDArray[np.float32]
StepCallback = Callable[["InpaintPipeline", int, float, dict[str, Array]], Mapping[str, Array] | None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InpaintOutput:
    """What a run returns.

    Attributes:
        images: a list of PIL pictures; an array (B, H, W, 3) in [0, 1] for `output_type="np"`; latents (B, C, h, w)
            for "latent".
        seeds: the seed of each sample, None where noise was replayed.
        notes: what the user should know, one sentence each.
        seconds: time spent in `encode`, `denoise` and `decode`, and in the UNet alone (`unet`).
    """

    images: Any
    seeds: tuple[int | None, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]


@dataclass
class InpaintPipeline:
    """A bundle with an engine, ready to inpaint.

    Make one with `InpaintPipeline.load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    bundle: Bundle
    selection: Selection
    options: EngineOptions
    geometry: Geometry
    _engines: dict[str, Engine] = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        *,
        progress: bool = False,
    ) -> InpaintPipeline:
        """Open a bundle and choose the engine.

        Args:
            bundle: the bundle's folder.
            engine: "onnxruntime", "paddle", another package's, or "auto" for the first installed.
            precision: "fp32", "fp16", "bf16", or None for the engine's default.
            device: as the engine names it.
            threads: threads within one operation, None for all cores.
            progress: show a bar while the files' content is checked for the first time.

        Raises:
            BundleError: the bundle is damaged; lists every fault.
            UsageError: no such engine, precision or device.
            EngineUnavailable: the engine is not installed or cannot run this bundle.
        """
        options = EngineOptions(device=device, threads=threads)
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        selection = select(opened.manifest, engine, precision)
        components = opened.manifest.components.values()
        opened.check_content([item.variants[selection.variant] for item in components], progress=progress)
        return cls(opened, selection, options, Geometry.of(opened.manifest))

    def __call__(
        self,
        image: Any,
        mask_image: Any,
        *,
        image_embeds: npt.ArrayLike,
        negative_image_embeds: npt.ArrayLike | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 100,
        guidance_scale: float = 4.0,
        scheduler: str | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        noise: str | NoiseSource = "torch",
        record_noise: str | os.PathLike[str] | None = None,
        latents: npt.ArrayLike | None = None,
        output_type: Literal["pil", "np", "latent"] = "pil",
        composite: Literal["paste", "none"] = "paste",
        invert_mask: bool = False,
        callback_on_step_end: StepCallback | None = None,
        cancel: threading.Event | None = None,
        progress: bool = False,
    ) -> InpaintOutput:
        """Repaint the white area of a mask.

        A list of pictures, masks, embeddings or seeds is a batch, each sample with its own; what is given once serves
        every sample.

        Args:
            image: a path, a PIL picture or an array; or a list of them.
            mask_image: white (1) is repainted, black (0) kept; a path, a PIL picture or an array; or a list of them.
            image_embeds: CLIP image embeddings of the prior, (E,) or (B, E).
            negative_image_embeds: the same for the negative prompt; needed where `guidance_scale` is above 1.
            height: of the result in pixels, at least 64; None takes the picture's.
            width: of the result in pixels, at least 64; None takes the picture's.
            num_inference_steps: denoising steps.
            guidance_scale: weight of classifier-free guidance; 1 and below turn it off.
            scheduler: one of `schedulers.NAMES` or a diffusers class name; None takes the checkpoint's.
            num_images_per_prompt: results for each sample.
            seed: of the noise. One number serves the first result and its successors the others; a list has one for
                each result. None draws one and tells it in the output.
            noise: "torch" for the numbers of `torch.Generator("cpu")`, "numpy", or a source to draw from.
            record_noise: a file to write every draw to, for `ReplayNoise`.
            latents: initial noise (B, C, h, w) instead of a drawn one.
            output_type: "pil", "np" or "latent".
            composite: "paste" keeps every pixel outside the mask as it was; "none" returns the decoder's picture.
            invert_mask: the mask is black where it is to be repainted, as diffusers before 0.19 had it.
            callback_on_step_end: called as (pipeline, step, timestep, {"latents": …}) after each step; it may return
                {"latents": …} to go on with.
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
        if output_type not in ("pil", "np", "latent"):
            raise UsageError(f"output_type is {output_type!r}; choose from pil, np, latent")
        if composite not in ("paste", "none"):
            raise UsageError(f"composite is {composite!r}; choose from paste, none")
        method = schedulers.load(self.bundle.manifest.scheduler, scheduler)
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
        )
        if method.predicts_variance and self.geometry.out_channels != 2 * self.geometry.channels:
            raise UsageError(
                f"the scheduler config learns its variance; this UNet's {self.geometry.out_channels} output channels"
                " carry none"
            )
        sampler = method.sampler(num_inference_steps, request.latent_shape)

        if output_type != "latent" and request.keeps_everything:
            note = "the mask has nothing to repaint: the input is returned"
            _log.warning(note)
            images = _originals(request) if output_type == "pil" else _as_floats(_originals(request))
            return InpaintOutput(images, request.seeds, (*request.notes, note), {})

        source, seeds = _noise_source(noise, request)
        recording = RecordingNoise(source) if record_noise is not None else None
        clock = _Clock()
        with clock("encode"):
            original = self._encode(request)
        with clock("denoise"):
            final = self._denoise(
                request, original, method, sampler, recording or source, callback_on_step_end, cancel, progress, clock
            )
        if recording is not None and record_noise is not None:
            recording.save(record_noise)
        if output_type == "latent":
            return InpaintOutput(final, seeds, request.notes, clock.seconds)
        with clock("decode"):
            decoded = self._decode(final, request)
        images = _finish(decoded, request, output_type, composite)
        return InpaintOutput(images, seeds, request.notes, clock.seconds)

    def engine(self, component: str) -> Engine:
        """The loaded graph of a component.

        Raises:
            EngineError: it could not be loaded.
        """
        if component not in self._engines:
            entry = self.bundle.component(component)
            files = self.bundle.paths(entry.variants[self.selection.variant])
            self._engines[component] = self.selection.engine(component, entry.spec, files, self.options)
        return self._engines[component]

    def close(self) -> None:
        """Release every loaded graph; the next run loads them again."""
        while self._engines:
            self._engines.popitem()[1].close()

    def _encode(self, request: Request) -> Array:
        """Latents (B, C, h, w) of the pictures, one at a time: memory for one, and no sample touches another."""
        engine = self.engine("movq_encoder")
        unique = [engine.run({"image": pixels[None]})["latents"] for pixels in request.pixels]
        return np.concatenate([unique[index] for index in request.picture_of])

    def _decode(self, latents: Array, request: Request) -> Array:
        engine = self.engine("movq_decoder")
        pictures = [engine.run({"latents": sample[None]})["image"] for sample in latents]
        return from_model(np.concatenate(pictures))[:, : request.height, : request.width]

    def _denoise(
        self,
        request: Request,
        original: Array,
        method: schedulers.Scheduler,
        sampler: schedulers.Sampler,
        source: NoiseSource,
        callback: StepCallback | None,
        cancel: threading.Event | None,
        progress: bool,
        clock: _Clock,
    ) -> Array:
        unet = self.engine("unet")
        channels = self.geometry.channels
        guided = guidance.is_guided(request.guidance_scale)
        halves = 2 if guided else 1
        batch = len(original)

        noise = request.latents if request.latents is not None else source.draw(request.latent_shape)
        latents = noise * np.float32(sampler.init_noise_sigma)
        keep = request.keep  # (B, 1, h, w)
        repaint = 1 - keep
        known = np.empty_like(latents)

        # The UNet reads [latents, masked image latents, keep mask]; only the first C channels change from step to step.
        feed = np.empty((halves * batch, 2 * channels + 1, *latents.shape[2:]), np.float32)
        for half in np.split(feed, halves):
            np.multiply(original, keep, out=half[:, channels:-1])
            half[:, -1:] = keep
        embeds = np.concatenate([request.negative_image_embeds, request.image_embeds] if guided else [request.image_embeds])
        timestep = np.empty(halves * batch, np.float32)

        steps = len(sampler.timesteps)
        for i, t in enumerate(tqdm(sampler.timesteps.tolist(), desc="inpainting", unit="step", disable=not progress)):
            if cancel is not None and cancel.is_set():
                raise Cancelled(f"cancelled before step {i + 1} of {steps}")
            scaled = sampler.scale_model_input(i, latents)
            for half in np.split(feed, halves):
                half[:, :channels] = scaled
            timestep.fill(t)
            with clock("unet"):
                output = unet.run(
                    {"sample": feed, "timestep": timestep, "image_embeds": embeds},
                    during=f"step {i + 1} of {steps} (t = {t:g})",
                )["noise_pred"]
            if guided:
                output = guidance.combine(output, request.guidance_scale, channels)
            if not method.predicts_variance:
                output = output[:, :channels]
            drawn = source.draw(request.latent_shape) if sampler.draws_noise(i) else None
            latents = sampler.step(i, output, latents, drawn)

            # What is kept is the original's latents at the noise level of the next step, clean after the last.
            if i + 1 < steps:
                sampler.add_noise(i + 1, original, noise, known)
            else:
                known[...] = original
            known *= keep
            latents *= repaint
            latents += known

            if callback is not None:
                changed = callback(self, i, t, {"latents": latents})
                if changed and "latents" in changed:
                    latents = request.checked_latents(changed["latents"])
        return latents


class _Clock:
    """Adds up the seconds spent in named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[tuple[str, float]] = []

    def __call__(self, part: str) -> _Clock:
        self._running.append((part, time.perf_counter()))
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        part, start = self._running.pop()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start


def _noise_source(noise: str | NoiseSource, request: Request) -> tuple[NoiseSource, tuple[int | None, ...]]:
    if not isinstance(noise, str):
        return noise, (None,) * request.batch
    return BatchNoise([make_noise(noise, seed) for seed in request.seeds]), request.seeds


def _originals(request: Request) -> list[Image.Image]:
    return [request.pictures[index] for index in request.picture_of]


def _as_floats(pictures: list[Image.Image]) -> Array:
    return np.stack([np.asarray(picture) for picture in pictures]) / np.float32(255)


def _finish(decoded: Array, request: Request, output_type: str, composite: str) -> list[Image.Image] | Array:
    """Pictures or arrays of the size asked for, with the kept pixels put back for `composite="paste"`."""
    if output_type == "np":
        return decoded if composite == "none" else paste_pixels(_as_floats(_originals(request)), decoded, request.masks)
    pictures = to_pil(decoded)
    if composite == "none":
        return pictures
    return [paste(*item) for item in zip(_originals(request), pictures, request.masks, strict=True)]

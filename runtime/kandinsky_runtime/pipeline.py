"""The denoising loop of Kandinsky 2.2 inpainting, in numpy around compiled graphs.

Legend: B samples · C latent channels · K output channels of the UNet · h, w latent height and width
        H, W picture height and width (padded) · E embedding width
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kandinsky_runtime import guidance, schedulers
from kandinsky_runtime.bundle import Bundle
from kandinsky_runtime.checks import choice, whole_number
from kandinsky_runtime.engines import AUTO, Selection
from kandinsky_runtime.engines.base import Engine, EngineOptions
from kandinsky_runtime.errors import Kandinsky22Error, UsageError
from kandinsky_runtime.feeds import UNetFeeds
from kandinsky_runtime.geometry import Geometry
from kandinsky_runtime.graphs import Graphs
from kandinsky_runtime.image import from_model
from kandinsky_runtime.inputs import Request, prepare
from kandinsky_runtime.manifest import COMPONENTS
from kandinsky_runtime.noise import BatchNoise, NoiseSource, RecordingNoise, make_noise
from kandinsky_runtime.output import COMPOSITES, OUTPUT_TYPES, InpaintOutput, finished, unchanged
from kandinsky_runtime.watch import Clock, StepCallback, Watch

Array = npt.NDArray[np.float32]
NOISES = ("torch", "numpy")

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class InpaintPipeline:
    """A bundle with an engine, ready to inpaint; also a context manager, and safe to share between threads.

    Make one with `InpaintPipeline.load`. Graphs are loaded when they are first needed and stay loaded until `close`.
    """

    graphs: Graphs
    geometry: Geometry

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle,
        engine: str = AUTO,
        precision: str | None = None,
        device: str = EngineOptions.device,
        threads: int | None = None,
        *,
        low_memory: bool = False,
        progress: bool = False,
    ) -> InpaintPipeline:
        """Open a bundle and choose the engine.

        Args:
            bundle: the bundle's folder.
            engine: "onnxruntime", "paddle", another package's, or "auto" for the first that can run the bundle here.
            precision: "fp32", "fp16", "bf16", or None for the engine's default.
            device: as the engine names it.
            threads: threads within one operation, None for all cores.
            low_memory: have one graph loaded at a time: each run loads it when its phase begins and releases it at its
                end, so that runs take longer, and follow one another.
            progress: show a bar while the files' content is checked for the first time.

        Raises:
            BundleError: the bundle is damaged; lists every fault.
            UsageError: no such engine, precision or device.
            EngineUnavailable: the engine is not installed or cannot run this bundle.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        geometry = Geometry.of(opened.manifest, opened.subject)
        graphs = Graphs.open(opened, engine, precision, device, threads, low_memory=low_memory, progress=progress)
        return cls(graphs, geometry)

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self.graphs.bundle

    @property
    def selection(self) -> Selection:
        """The engine, and what it runs of the bundle."""
        return self.graphs.selection

    @property
    def options(self) -> EngineOptions:
        """Device, threads and precision."""
        return self.graphs.options

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
        seed: int | Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
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
            seed: of the noise. A number is the first result's, its successors are the others'; a list has one for each
                result. None draws one; the output tells it.
            noise: "torch" for the numbers of `torch.Generator("cpu")`, "numpy", or a source to draw from.
            record_noise: a file to write every draw to, for `ReplayNoise`, at the end.
            latents: initial noise (B, C, h, w) instead of a drawn one; the other draws are those of the seed.
            output_type: "pil", "np" or "latent".
            composite: "paste" keeps every pixel outside the mask as it was; "none" returns the decoder's picture. Where
                no mask has anything to repaint, the pictures are returned as they are, and a note says so.
            invert_mask: the mask is black where it is to be repainted, as diffusers before 0.19 had it.
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
        choice("output_type", output_type, OUTPUT_TYPES)
        choice("composite", composite, COMPOSITES)
        watch = Watch(callback_on_step_end, cancel, progress)
        steps = whole_number("num_inference_steps", num_inference_steps, 1)
        method = schedulers.load(self.bundle.manifest.scheduler, scheduler)
        self._check_variance(method)
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
        sampler = method.sampler(steps, request.latent_shape)
        source, seeds = _noise_source(noise, request)
        recording = None if record_noise is None else RecordingNoise(source)
        if record_noise is not None:
            _check_recording_path(record_noise)
        for note in request.notes:
            _log.warning(note)

        clock = Clock()
        if request.keeps_everything:
            images = self._encode(request) if output_type == "latent" else unchanged(request, output_type)
            return InpaintOutput(images, seeds, request.notes, clock.seconds)
        with self.graphs.run():
            with clock("load"):
                self.graphs.load(("movq_encoder", "unet") if output_type == "latent" else COMPONENTS)
            with clock("encode"):
                original = self._encode(request)
            with clock("denoise"):
                final = self._denoise(
                    request, original, sampler, recording or source, method.predicts_variance, watch, clock
                )
            if output_type == "latent":
                images = final
            else:
                with clock("decode"):
                    images = finished(self._decode(final, request), request, output_type, composite)
        if recording is not None and record_noise is not None:
            _save_recording(recording, Path(record_noise))
        return InpaintOutput(images, seeds, request.notes, clock.seconds)

    def engine(self, component: str) -> Engine:
        """The loaded graph of a component.

        Raises:
            BundleError: the bundle has no such component.
            EngineError: it could not be loaded.
        """
        return self.graphs.engine(component)

    def close(self) -> None:
        """Release every loaded graph, after a run in progress; the next run loads them again."""
        self.graphs.close()

    def __enter__(self) -> InpaintPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_variance(self, method: schedulers.Scheduler) -> None:
        if method.predicts_variance and self.geometry.out_channels == self.geometry.channels:
            raise UsageError(
                f"the scheduler config learns its variance; this UNet's {self.geometry.out_channels} output channels"
                " carry none: choose another scheduler"
            )

    def _encode(self, request: Request) -> Array:
        """Latents (B, C, h, w) of the pictures, one at a time: memory for one, and no sample touches another."""
        engine, count = self.engine("movq_encoder"), len(request.pixels)
        different = [
            engine.run({"image": pixels[None]}, during=f"picture {i + 1} of {count}")["latents"]
            for i, pixels in enumerate(request.pixels)
        ]
        self.graphs.phase_over("movq_encoder")
        return np.concatenate([different[index] for index in request.picture_of])

    def _decode(self, latents: Array, request: Request) -> Array:
        """Pictures (B, height, width, 3) in [0, 1], one at a time, their padding cut off."""
        engine = self.engine("movq_decoder")
        pictures = [
            engine.run({"latents": sample[None]}, during=f"result {i + 1} of {len(latents)}")["image"]
            for i, sample in enumerate(latents)
        ]
        self.graphs.phase_over("movq_decoder")
        return from_model(np.concatenate(pictures)[:, :, : request.height, : request.width])

    def _denoise(
        self,
        request: Request,
        original: Array,
        sampler: schedulers.Sampler,
        source: NoiseSource,
        uses_variance: bool,
        watch: Watch,
        clock: Clock,
    ) -> Array:
        """Latents (B, C, h, w) from noise, steered to the original's (B, C, h, w) where they are kept."""
        unet, channels, steps = self.engine("unet"), self.geometry.channels, len(sampler.timesteps)
        used = self.geometry.out_channels if uses_variance else channels
        noise = source.draw(request.latent_shape) if request.latents is None else request.latents
        latents = noise * np.float32(sampler.init_noise_sigma)
        feeds = UNetFeeds(request, original)
        mixed = np.empty((request.batch, used, *latents.shape[2:]), np.float32)
        drawn, known, repaint = np.empty_like(latents), np.empty_like(latents), 1 - request.keep

        for i, timestep in watch.steps(sampler.timesteps.tolist()):
            inputs = feeds.at(sampler.scale_model_input(i, latents), timestep)
            with clock("unet"):
                during = f"step {i + 1} of {steps} (timestep {timestep:g})"
                output = unet.run(inputs, during=during)["noise_pred"]  # (B or 2B, K, h, w)
            if request.guided:
                output = guidance.combine(output, request.guidance_scale, channels, mixed)
            noise_of_step = source.draw(drawn.shape, drawn) if sampler.draws_noise(i) else None
            latents = sampler.step(i, output[:, :used], latents, noise_of_step)

            # What is kept is the original at the noise level of the next step, clean after the last.
            if i + 1 < steps:
                sampler.add_noise(i + 1, original, noise, known)
            else:
                known[...] = original
            known *= request.keep
            latents *= repaint
            latents += known
            after = watch.after_step(self, i, timestep, latents)
            if after is not latents:
                latents = request.checked_latents(after)
        self.graphs.phase_over("unet")
        return latents


def _noise_source(noise: str | NoiseSource, request: Request) -> tuple[NoiseSource, tuple[int | None, ...]]:
    """The source of a run's noise, and the seed of each sample where there is one."""
    if isinstance(noise, NoiseSource):
        return noise, (None,) * request.batch
    choice("noise", noise, NOISES)
    return BatchNoise([make_noise(noise, seed) for seed in request.seeds]), request.seeds


def _check_recording_path(path: str | os.PathLike[str]) -> None:
    if isinstance(path, (str, os.PathLike)):
        folder = Path(path).parent
        if folder.is_dir() and os.access(folder, os.W_OK) and not Path(path).is_dir():
            return
    raise UsageError(f"record_noise is {path!r}; expected the path of a file in a folder that can be written to")


def _save_recording(recording: RecordingNoise, path: Path) -> None:
    try:
        recording.save(path)
    except OSError as error:
        raise Kandinsky22Error(f"the noise recording {path} cannot be written: {error.strerror}") from error

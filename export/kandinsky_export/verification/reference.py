"""Eager ppdiffusers as the reference: single components, and its own pipelines with every draw of noise recorded.

The models here keep ppdiffusers' own attention and forwards; nothing is shared with the traced graphs but the weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from PIL import Image

from kandinsky_export.checkpoints.checkpoint import Checkpoint
from kandinsky_export.errors import CheckpointError
from kandinsky_export.graphs.architecture import build_models, expected_tensors, fill
from kandinsky_export.vendors import DDPMScheduler, KandinskyV22InpaintPipeline, KandinskyV22Pipeline, paddle
from kandinsky_runtime.sampling.noise import NoiseSource, RecordingNoise

Array = npt.NDArray[np.float32]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class EagerTrajectory:
    """One eager run.

    Attributes:
        noise: every draw, the initial one first.
        unet_feeds, unet_outputs: the UNet's inputs and outputs, by step.
        latents: the latents after each step, (B, C, h, w).
        encoded: the picture's latents; None without a picture.
        image: the result, (B, H, W, 3) in [0, 1].
    """

    noise: tuple[Array, ...]
    unet_feeds: tuple[Feeds, ...]
    unet_outputs: tuple[Array, ...]
    latents: tuple[Array, ...]
    encoded: Array | None
    image: Array


class Reference:
    """The checkpoint's models in eager ppdiffusers."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Load both models.

        Raises:
            CheckpointError: the checkpoint cannot be used.
        """
        configs = {name: item.config for name, item in checkpoint.components.items()}
        self._models = build_models(configs, str(checkpoint.root))
        tensors = checkpoint.tensors({name: expected_tensors(model) for name, model in self._models.items()})
        for name, model in self._models.items():
            fill(model, tensors[name])
        known = inspect.signature(DDPMScheduler.__init__).parameters
        settings = {key: value for key, value in checkpoint.scheduler.items() if key in known}
        try:
            self._scheduler = DDPMScheduler(**settings)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise CheckpointError(str(checkpoint.root), [f"scheduler config: ppdiffusers: {error}"]) from error

    def config(self, model: str) -> Mapping[str, Any]:
        """The config of "unet" or "movq", with its defaults."""
        config: Mapping[str, Any] = self._models[model].config
        return config

    @property
    def max_steps(self) -> int:
        """The most steps that a trajectory may have."""
        return int(self._scheduler.config.num_train_timesteps)

    def run(self, component: str, feeds: Feeds) -> Array:
        """The output of a component, float32."""
        unet, movq = self._models["unet"], self._models["movq"]
        tensors = {name: paddle.to_tensor(array) for name, array in feeds.items()}
        calls: Mapping[str, Callable[[], Any]] = {
            "unet": lambda: (
                unet(
                    tensors["sample"],
                    tensors["timestep"],
                    encoder_hidden_states=None,
                    added_cond_kwargs={"image_embeds": tensors["image_embeds"]},
                ).sample
            ),
            "movq_encoder": lambda: movq.encode(tensors["image"]).latents,
            "movq_decoder": lambda: movq.decode(tensors["latents"], force_not_quantize=True).sample,
        }
        with paddle.no_grad():
            return np.asarray(calls[component]().numpy(), np.float32)

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image,
        embeds: Array,
        negative_embeds: Array,
        *,
        source: NoiseSource,
        steps: int,
        guidance_scale: float,
    ) -> EagerTrajectory:
        """Run ppdiffusers' own inpainting pipeline, with its DDPM scheduler, on one picture.

        Args:
            image, mask: RGB and L, of one size, a multiple of 64.
            embeds, negative_embeds: (1, E).
            source: the noise source.
            steps: denoising steps.
            guidance_scale: the guidance scale, above 1; the pipeline fails without guidance.
        """
        return self._trajectory(
            KandinskyV22InpaintPipeline,
            embeds,
            negative_embeds,
            size=image.size,
            source=source,
            steps=steps,
            guidance_scale=guidance_scale,
            image=image,
            mask_image=mask,
        )

    def generate(
        self,
        size: tuple[int, int],
        embeds: Array,
        negative_embeds: Array,
        *,
        source: NoiseSource,
        steps: int,
        guidance_scale: float,
    ) -> EagerTrajectory:
        """Run ppdiffusers' own text-to-image pipeline, with its DDPM scheduler.

        Args:
            size: width and height, multiples of 64.
            embeds, negative_embeds, source, steps, guidance_scale: as for `inpaint`.
        """
        return self._trajectory(
            KandinskyV22Pipeline,
            embeds,
            negative_embeds,
            size=size,
            source=source,
            steps=steps,
            guidance_scale=guidance_scale,
        )

    def _trajectory(
        self,
        pipeline_class: Any,
        embeds: Array,
        negative_embeds: Array,
        *,
        size: tuple[int, int],
        source: NoiseSource,
        steps: int,
        guidance_scale: float,
        **pictures: Image.Image,
    ) -> EagerTrajectory:
        pipeline = pipeline_class(unet=self._models["unet"], scheduler=self._scheduler, movq=self._models["movq"])
        pipeline.set_progress_bar_config(disable=True)
        width, height = size
        recording = RecordingNoise(source)
        steps_seen: list[tuple[Feeds, Array]] = []
        latents: list[Array] = []
        encoded: list[Array] = []
        multiple = pipeline.movq_scale_factor
        shape = (1, pipeline.movq.config.latent_channels, height // multiple, width // multiple)

        def on_step_end(_: Any, __: int, ___: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents.append(values["latents"].numpy())
            return {}

        with _drawing_from(recording), _unet_calls(pipeline.unet, steps_seen), _encoder_calls(pipeline.movq, encoded):
            output = pipeline(
                image_embeds=paddle.to_tensor(embeds),
                negative_image_embeds=paddle.to_tensor(negative_embeds),
                height=height,
                width=width,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                latents=paddle.to_tensor(recording.draw(shape)),
                output_type="np",
                callback_on_step_end=on_step_end,
                **pictures,
            )
        return EagerTrajectory(
            noise=recording.draws,
            unet_feeds=tuple(feeds for feeds, _ in steps_seen),
            unet_outputs=tuple(result for _, result in steps_seen),
            latents=tuple(latents),
            encoded=encoded[0] if encoded else None,
            image=np.asarray(output.images, np.float32),
        )


@contextmanager
def _drawing_from(source: NoiseSource) -> Iterator[None]:
    """Let ppdiffusers' DDPM scheduler draw its noise from `source`."""

    def randn(shape: Any, **_: Any) -> Any:
        return paddle.to_tensor(source.draw(tuple(shape)))

    with mock.patch("ppdiffusers.schedulers.scheduling_ddpm.randn_tensor", randn):
        yield


@contextmanager
def _unet_calls(unet: Any, calls: list[tuple[Feeds, Array]]) -> Iterator[None]:
    forward = unet.forward

    def recorded(sample: Any, timestep: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(sample, timestep, *args, **kwargs)
        feeds = {
            "sample": sample.numpy(),
            "timestep": np.full(sample.shape[0], float(timestep), np.float32),
            "image_embeds": kwargs["added_cond_kwargs"]["image_embeds"].numpy(),
        }
        calls.append((feeds, result[0].numpy()))
        return result

    with mock.patch.object(unet, "forward", recorded):
        yield


@contextmanager
def _encoder_calls(movq: Any, calls: list[Array]) -> Iterator[None]:
    encode = movq.encode

    def recorded(image: Any, *args: Any, **kwargs: Any) -> Any:
        result = encode(image, *args, **kwargs)
        calls.append(result["latents"].numpy())
        return result

    with mock.patch.object(movq, "encode", recorded):
        yield

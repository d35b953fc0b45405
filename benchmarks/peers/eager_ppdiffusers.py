"""ppdiffusers in Paddle's eager mode, float32, with weights of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import paddle
from PIL import Image
from ppdiffusers import DDPMScheduler, KandinskyV22InpaintPipeline, UNet2DConditionModel, VQModel
from worker import Job, Work, intervals, serve


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind` has no meaning here."""
    configs = job["configs"]
    unet, movq = UNet2DConditionModel.from_config(configs["unet"]), VQModel.from_config(configs["movq"])
    unet.eval()
    movq.eval()
    pipeline = KandinskyV22InpaintPipeline(
        unet=unet, scheduler=DDPMScheduler.from_config(configs["scheduler"]), movq=movq
    )
    pipeline.set_progress_bar_config(disable=True)
    height, width = job["height"], job["width"]
    cells = height // job["factor"], width // job["factor"]
    sample, latents = paddle.randn([2, 9, *cells]), paddle.randn([1, 4, *cells])
    embeds = paddle.randn([2, job["embed_width"]])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    mask = np.zeros((height, width), np.float32)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1

    def step() -> None:
        with paddle.no_grad():
            unet(sample, paddle.to_tensor(501), None, added_cond_kwargs={"image_embeds": embeds})

    def decode() -> None:
        with paddle.no_grad():
            movq.decode(latents, force_not_quantize=True)

    def whole() -> dict[str, Any]:
        moments: list[float] = []

        def at_end(_: object, __: int, ___: object, values: dict[str, Any]) -> dict[str, Any]:
            moments.append(time.perf_counter())
            return values

        pipeline(
            image_embeds=embeds[1:], negative_image_embeds=embeds[:1], image=picture, mask_image=mask,
            height=height, width=width, num_inference_steps=job["steps"], callback_on_step_end=at_end,
        )  # fmt: skip
        return intervals(moments)

    versions = {name: version(name) for name in ("paddlepaddle", "ppdiffusers")}
    return versions, {"unet": step, "decode": decode, "job": whole}


if __name__ == "__main__":
    serve(make)

"""diffusers on PyTorch, eager or compiled, with weights of its own: times do not depend on their values."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from worker import Job, Work, intervals, serve


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind`: "eager:bf16", "eager:fp32" or "compile:bf16"."""
    torch.set_grad_enabled(False)
    how, _, precision = job["kind"].partition(":")
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    configs = job["configs"]
    unet = diffusers.UNet2DConditionModel.from_config(configs["unet"]).eval().to(dtype)
    movq = diffusers.VQModel.from_config(configs["movq"]).eval().to(dtype)
    scheduler = diffusers.DDPMScheduler.from_config(configs["scheduler"])
    if how == "compile":
        unet.compile()
        movq.encode, movq.decode = torch.compile(movq.encode), torch.compile(movq.decode)
    pipeline = diffusers.KandinskyV22InpaintPipeline(unet=unet, scheduler=scheduler, movq=movq)
    pipeline.set_progress_bar_config(disable=True)

    height, width = job["height"], job["width"]
    cells = height // job["factor"], width // job["factor"]
    sample, latents = torch.randn(2, 9, *cells, dtype=dtype), torch.randn(1, 4, *cells, dtype=dtype)
    embeds = torch.randn(2, job["embed_width"], dtype=dtype)
    timestep = torch.tensor(501)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    mask = np.zeros((height, width), np.float32)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1

    def whole() -> dict[str, Any]:
        moments: list[float] = []

        def at_end(_: object, __: int, ___: int, values: dict[str, Any]) -> dict[str, Any]:
            moments.append(time.perf_counter())
            return values

        pipeline(
            image_embeds=embeds[1:], negative_image_embeds=embeds[:1], image=picture, mask_image=mask,
            height=height, width=width, num_inference_steps=job["steps"], callback_on_step_end=at_end,
        )  # fmt: skip
        return intervals(moments)

    works = {
        "unet": lambda: unet(sample, timestep, None, added_cond_kwargs={"image_embeds": embeds}) and None,
        "decode": lambda: movq.decode(latents, force_not_quantize=True) and None,
        "job": whole,
    }
    return {"torch": torch.__version__, "diffusers": diffusers.__version__}, works


if __name__ == "__main__":
    serve(make)

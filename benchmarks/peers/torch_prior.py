"""diffusers' prior on PyTorch, with weights of its own: times do not depend on their values.

The image encoder is left out, and with it what the reference computes of an empty picture at every call: in its favour.
"""

from __future__ import annotations

from collections.abc import Mapping

import diffusers
import torch
import transformers
from worker import Job, Work, serve


def make(job: Job) -> tuple[dict[str, str], Mapping[str, Work]]:
    """`kind`: "eager:fp32" or "eager:bf16"; `configs` of text_encoder, prior and scheduler; `tokenizer`, a folder."""
    torch.set_grad_enabled(False)
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[job["kind"].partition(":")[2]]
    configs = job["configs"]
    settings = transformers.CLIPTextConfig(**configs["text_encoder"])
    pipeline = diffusers.KandinskyV22PriorPipeline(
        prior=diffusers.PriorTransformer.from_config(configs["prior"]).eval().to(dtype),
        text_encoder=transformers.CLIPTextModelWithProjection(settings).eval().to(dtype),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(job["tokenizer"], model_max_length=77),
        scheduler=diffusers.UnCLIPScheduler.from_config(configs["scheduler"]),
        image_encoder=None,
        image_processor=None,
    )
    pipeline.get_zero_embed = lambda count, device=None: torch.zeros(count, job["embed_width"], dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)

    def embed() -> None:
        generator = torch.Generator("cpu").manual_seed(0)
        pipeline(job["prompt"], num_inference_steps=job["steps"], generator=generator)

    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
    return versions | {"transformers": transformers.__version__}, {"embed": embed}


if __name__ == "__main__":
    serve(make)

"""Stage 7: write the two checkpoints in diffusers' layout, fp16: `decoder-inpaint` and `prior`."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22InpaintPipeline,
    KandinskyV22PriorPipeline,
    UnCLIPScheduler,
    UNet2DConditionModel,
)
from safetensors import safe_open
from transformers import CLIPImageProcessor

from scripts.training import prior, unet
from scripts.training.clip import PROCESSOR, open_clip
from scripts.training.command import run_stage
from scripts.training.folding import fill_codebook
from scripts.training.latents import encoder_source, open_movq, read_latents
from scripts.training.loop import load_average
from scripts.training.pictures import HELD_OUT
from scripts.training.settings import SEED, parser
from scripts.training.tokenizer import open_tokenizer, write_tokenizer

LIMIT = 25_000_000  # bytes of all files together


def open_inpaint(work: Path) -> KandinskyV22InpaintPipeline:
    """Return diffusers' inpainting pipeline with the trained models, float32."""
    movq = open_movq(work)
    latents = torch.from_numpy(read_latents(work, HELD_OUT, encoder_source(work))[:100].astype(np.float32))
    fill_codebook(movq, latents.movedim(2, -1).reshape(-1, 4)[::3], SEED)
    model = UNet2DConditionModel(**unet.CONFIG)
    load_average(work / "unet", model)
    return KandinskyV22InpaintPipeline(unet=model, scheduler=DDPMScheduler.from_config(unet.SCHEDULER), movq=movq)


def open_prior_pipeline(work: Path) -> KandinskyV22PriorPipeline:
    """Return diffusers' prior pipeline with the trained models, float32."""
    clip = open_clip(work)
    return KandinskyV22PriorPipeline(
        prior=prior.open_prior(work),
        image_encoder=clip.image_encoder,
        text_encoder=clip.text_encoder,
        tokenizer=open_tokenizer(work),
        scheduler=UnCLIPScheduler(**prior.SCHEDULER),
        image_processor=CLIPImageProcessor(**PROCESSOR),
    )


def write(pipeline: KandinskyV22InpaintPipeline | KandinskyV22PriorPipeline, folder: Path) -> None:
    """Write a pipeline's models in fp16, and its configs."""
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(folder)


def describe(folder: Path) -> int:
    """Print the parameters and bytes of each model; return the bytes of all files."""
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as tensors:
            count = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        print(f"{path.parent.relative_to(folder.parent)}: {count:,} parameters, {path.stat().st_size:,} bytes")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, default=None, help="folder of the two checkpoints; None: WORK/export")
    args = options.parse_args()
    out = args.out or args.work / "export"
    decoder, text = out / "decoder-inpaint", out / "prior"
    pipelines = open_inpaint(args.work), open_prior_pipeline(args.work)
    for pipeline, folder in zip(pipelines, (decoder, text), strict=True):
        write(pipeline, folder)
    # transformers 5 writes one tokenizer.json; the checkpoints' readers know CLIP's two files.
    shutil.rmtree(text / "tokenizer")
    write_tokenizer(text / "tokenizer")
    processor = text / "image_processor"
    shutil.rmtree(processor)
    processor.mkdir()
    (processor / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n", encoding="utf-8")
    # Some installations name a class of another backend; every version knows this one.
    index = json.loads((text / "model_index.json").read_text(encoding="utf-8"))
    index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    (text / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    total = describe(decoder) + describe(text)
    print(f"{total:,} bytes in {out}; the limit is {LIMIT:,}")
    if total > LIMIT:
        raise SystemExit("the checkpoints are too large")


if __name__ == "__main__":
    run_stage(main)

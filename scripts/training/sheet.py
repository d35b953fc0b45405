"""A contact sheet: held-out cats inpainted by diffusers' own pipelines, one row for each prompt.

The first row shows the pictures and what is masked; then, if asked for, MoVQ's reconstructions; then the prompts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from benchmarks.drawings import Scene, box_above_eyes, draw, random_scene
from scripts.training.command import run_stage
from scripts.training.export import open_inpaint, open_prior_pipeline
from scripts.training.latents import open_movq
from scripts.training.movq import psnr, reconstruct, to_model
from scripts.training.pictures import HELD_OUT
from scripts.training.settings import PICTURE, SEED, add_threads, count, parser

PROMPTS = ("a hat", "a red top hat", "a blue party hat", "a cat with a green beanie", "a yellow crown", "no hat")


def held_out_scene(seed: int) -> Scene:
    """Return a scene that no stage is trained on."""
    return random_scene(np.random.default_rng([SEED, HELD_OUT + 1, seed]))


def main() -> None:
    options = parser(__doc__)
    add_threads(options)
    options.add_argument("--out", type=Path, default=None, help="the picture; None: WORK/sheet.png")
    options.add_argument("--cats", type=count, default=10, help="columns")
    options.add_argument("--first", type=int, default=0, help="seed of the first cat")
    options.add_argument("--steps", type=count, default=25, help="steps of DPM-Solver++")
    options.add_argument("--guidance", type=float, default=4.0, help="guidance scale of the decoder")
    options.add_argument("--prior-guidance", type=float, default=4.0, help="guidance scale of the prior")
    options.add_argument("--prompts", nargs="+", default=PROMPTS, help="one row each")
    options.add_argument("--movq-only", action="store_true", help="pictures and MoVQ's reconstructions only")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    scenes = [held_out_scene(args.first + i) for i in range(args.cats)]
    pictures = [draw(scene, PICTURE).pixels for scene in scenes]
    masks = [box_above_eyes(scene, PICTURE) for scene in scenes]
    rebuilt = reconstruct(open_movq(args.work), to_model(np.stack(pictures)))
    print("PSNR of MoVQ:", " ".join(f"{value:.1f}" for value in psnr(rebuilt, to_model(np.stack(pictures)))))
    shown = [
        np.where(mask[..., None] > 0, picture // 2 + 100, picture)
        for picture, mask in zip(pictures, masks, strict=True)
    ]
    rows = [np.concatenate(shown, axis=1), np.concatenate(list(_to_pixels(rebuilt)), axis=1)]
    if not args.movq_only:
        inpaint = open_inpaint(args.work)
        inpaint.scheduler = DPMSolverMultistepScheduler.from_config(inpaint.scheduler.config)
        inpaint.set_progress_bar_config(disable=True)
        prior = open_prior_pipeline(args.work)
        prior.set_progress_bar_config(disable=True)
        for prompt in args.prompts:
            generator = torch.Generator().manual_seed(SEED)
            embeds, negative = prior(
                prompt, num_images_per_prompt=len(scenes), guidance_scale=args.prior_guidance, generator=generator
            ).to_tuple()
            made = []
            for picture, mask, embed in zip(pictures, masks, embeds, strict=True):
                result = inpaint(
                    image_embeds=embed[None], negative_image_embeds=negative[:1], image=Image.fromarray(picture),
                    mask_image=Image.fromarray(mask), height=PICTURE, width=PICTURE, num_inference_steps=args.steps,
                    guidance_scale=args.guidance, generator=generator, output_type="np",
                )  # fmt: skip
                made.append((result.images[0] * 255).round().astype(np.uint8))
            rows.append(np.concatenate(made, axis=1))
            print(prompt, flush=True)
    Image.fromarray(np.concatenate(rows)).save(args.out or args.work / "sheet.png")


def _to_pixels(pictures: torch.Tensor) -> np.ndarray:
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    run_stage(main)

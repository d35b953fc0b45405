"""Twenty hats on twenty cats, as a contact sheet: the cat, the noise and the hat of each follow from its seed, 0 to 19.

    python -m benchmarks.quality.twenty_hats BUNDLE --out twenty.png

The cats are held-out drawings, repainted as `k22 inpaint` does. Nothing is left out and nothing tried twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.drawings import box_above_eyes, draw, random_scene
from benchmarks.quality.tasks import HELD_OUT, SIZE
from kandinsky_export.comparison.sheet import contact_sheet
from kandinsky_runtime import InpaintPipeline, Kandinsky22Error
from kandinsky_runtime.pictures.saving import check_output_path, save_image

PROMPTS = ("a red top hat", "a blue party hat", "a green beanie", "a yellow crown")
CATS = 5  # with each prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a bundle with a prior, of drawn-cats")
    parser.add_argument("--out", type=Path, default=Path("twenty.png"), help="the picture (default: twenty.png)")
    parser.add_argument("--steps", type=int, default=50, help="steps of DPM-Solver++ (default: 50)")
    parser.add_argument("--guidance-scale", type=float, default=2.0, help="guidance of the decoder (default: 2)")
    args = parser.parse_args(argv)
    try:
        check_output_path(args.out)
        save_image(twenty_hats(args.bundle, args.steps, args.guidance_scale), args.out)
    except Kandinsky22Error as error:
        sys.stderr.write(f"twenty_hats: error: {error}\n")
        return error.exit_status
    print(f"wrote {args.out}")
    return 0


def twenty_hats(bundle: str, steps: int, guidance_scale: float) -> Image.Image:
    """Repaint the twenty cats. Returns the sheet: a row for each prompt, a cat for each seed."""
    rows = []
    with InpaintPipeline.load(bundle) as pipeline, tqdm(total=len(PROMPTS) * CATS, unit="cat") as bar:
        for row, prompt in enumerate(PROMPTS):
            results = []
            for seed in range(row * CATS, (row + 1) * CATS):
                scene = replace(random_scene(np.random.default_rng([HELD_OUT, seed])), hat=None)
                out = pipeline(
                    prompt, image=Image.fromarray(draw(scene, SIZE).pixels),
                    mask_image=Image.fromarray(box_above_eyes(scene, SIZE)), seed=seed, num_inference_steps=steps,
                    scheduler="dpm++", guidance_scale=guidance_scale,
                )  # fmt: skip
                results.append(np.asarray(out.images[0]))
                bar.update()
            rows.append((f"{prompt}\nseeds {row * CATS} to {seed}", results))
    return contact_sheet([""] * CATS, rows)


if __name__ == "__main__":
    sys.exit(main())

"""Draw the demo's picture, a cat without a hat, and its mask; and put them next to the result."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.drawings import box_above_eyes, draw, random_scene

SEED = 771_004_039  # no training has this drawing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--side-by-side", action="store_true", help="join picture, mask and result")
    args = parser.parse_args()
    scene = replace(random_scene(np.random.default_rng(SEED)), hat=None)
    if not args.side_by_side:
        Image.fromarray(draw(scene, args.size).pixels).save(args.folder / "picture.png")
        Image.fromarray(box_above_eyes(scene, args.size)).save(args.folder / "mask.png")
        return
    parts = [Image.open(args.folder / f"{name}.png").convert("RGB") for name in ("picture", "mask", "result")]
    gap = args.size // 32
    joined = Image.new("RGB", (3 * args.size + 2 * gap, args.size), "white")
    for i, part in enumerate(parts):
        joined.paste(part, (i * (args.size + gap), 0))
    joined.save(args.folder / "side-by-side.png")


if __name__ == "__main__":
    main()

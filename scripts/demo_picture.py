"""Draw the demo's picture and mask, and put them next to the result."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SCALE = 4  # drawn larger, for smooth edges


def picture(size: int) -> Image.Image:
    """Hills before an evening sky, with a sun."""
    side = size * SCALE
    y = np.linspace(0, 1, side)[:, None, None]
    sky = (1 - y) * np.array([38, 70, 120]) + y * np.array([250, 180, 120])
    image = Image.fromarray(np.broadcast_to(sky, (side, side, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([side * f for f in (0.60, 0.18, 0.80, 0.38)], fill=(255, 236, 180))
    x = np.arange(side)
    for height, wave, colour in ((0.62, 3.1, (86, 98, 122)), (0.72, 4.7, (62, 82, 92)), (0.84, 2.3, (36, 56, 58))):
        ridge = side * (height - 0.07 * np.sin(wave * x / side * np.pi + 10 * height))
        draw.polygon([(0, side), *zip(x.tolist(), ridge.tolist(), strict=True), (side, side)], fill=colour)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def mask(size: int) -> Image.Image:
    """White over a soft-edged patch left of the middle."""
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).ellipse([size * f for f in (0.12, 0.30, 0.52, 0.70)], fill=255)
    return image.filter(ImageFilter.GaussianBlur(size / 64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--side-by-side", action="store_true", help="join picture, mask and result")
    args = parser.parse_args()
    if not args.side_by_side:
        picture(args.size).save(args.folder / "picture.png")
        mask(args.size).save(args.folder / "mask.png")
        return
    parts = [Image.open(args.folder / f"{name}.png").convert("RGB") for name in ("picture", "mask", "result")]
    gap = args.size // 32
    joined = Image.new("RGB", (3 * args.size + 2 * gap, args.size), "white")
    for i, part in enumerate(parts):
        joined.paste(part, (i * (args.size + gap), 0))
    joined.save(args.folder / "side-by-side.png")


if __name__ == "__main__":
    main()

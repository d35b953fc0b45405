"""The picture and the mask of measurements and verifications."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def sample_picture(width: int, height: int) -> tuple[Image.Image, Image.Image]:
    """A picture of smooth colours, RGB, and a mask with a white ellipse, L."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 255 * y / height, 127.5 + 127.5 * np.sin(x / 9) * np.cos(y / 7))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width // 4, height // 4, 3 * width // 4, 3 * height // 4), fill=255)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8)), mask

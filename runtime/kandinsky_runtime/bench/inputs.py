"""Seeded random inputs to measure with."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

GUIDANCE_SCALE = 4.0


def random_inputs(embed_width: int, height: int, width: int, seed: int) -> dict[str, Any]:
    """A picture of seeded noise, a mask over its middle, and embeddings (1, E), as the pipeline takes them."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 255
    return {
        "image": Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)),
        "mask_image": Image.fromarray(mask),
        "image_embeds": rng.standard_normal((1, embed_width), np.float32),
        "negative_image_embeds": rng.standard_normal((1, embed_width), np.float32),
        "guidance_scale": GUIDANCE_SCALE,
        "seed": seed,
    }

"""Random inputs of the three graphs, for contestants that run the bundle's graphs."""

from __future__ import annotations

import numpy as np
from worker import Job


def feeds(job: Job) -> dict[str, dict[str, np.ndarray]]:
    """By component: the UNet a guidance batch of 2, MoVQ one picture."""
    rng = np.random.default_rng(0)
    cells = job["height"] // job["factor"], job["width"] // job["factor"]
    return {
        "unet": {
            "sample": rng.standard_normal((2, 9, *cells), np.float32),
            "timestep": np.full(2, 501, np.float32),
            "image_embeds": rng.standard_normal((2, job["embed_width"]), np.float32),
        },
        "movq_encoder": {"image": rng.uniform(-1, 1, (1, 3, job["height"], job["width"])).astype(np.float32)},
        "movq_decoder": {"latents": rng.standard_normal((1, 4, *cells), np.float32)},
    }

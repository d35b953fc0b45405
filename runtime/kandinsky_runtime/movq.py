"""Pictures to latents and back through MoVQ, one at a time: memory for one, and no sample touches another.

Legend: B samples · C latent channels · h, w latent height and width · H, W picture height and width (padded)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.graphs import Graphs
from kandinsky_runtime.image import from_model

Array = npt.NDArray[np.float32]


def encode(graphs: Graphs, pixels: Array) -> Array:
    """Latents (B, C, h, w) of pictures (B, 3, H, W) in [-1, 1].

    Raises:
        EngineError, NonFiniteError: the graph failed, or returned no finite numbers.
    """
    engine, count = graphs.engine("movq_encoder"), len(pixels)
    latents = [
        engine.run({"image": picture[None]}, during=f"picture {i + 1} of {count}")["latents"]
        for i, picture in enumerate(pixels)
    ]
    graphs.phase_over("movq_encoder")
    return np.concatenate(latents)


def decode(graphs: Graphs, latents: Array, height: int, width: int) -> Array:
    """Pictures (B, height, width, 3) in [0, 1] of latents (B, C, h, w), their padding cut off.

    Raises:
        EngineError, NonFiniteError: the graph failed, or returned no finite numbers.
    """
    engine, count = graphs.engine("movq_decoder"), len(latents)
    pictures = [
        engine.run({"latents": sample[None]}, during=f"result {i + 1} of {count}")["image"]
        for i, sample in enumerate(latents)
    ]
    graphs.phase_over("movq_decoder")
    return from_model(np.concatenate(pictures)[:, :, :height, :width])

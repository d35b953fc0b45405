"""Pictures to latents and back through MoVQ, one at a time: memory for one, and no sample touches another.

Large pictures may be cut into tiles. MoVQ attends over the whole picture and normalises with its statistics; a tile has
only its own. The result with tiles differs, without visible borders (docs/performance.md).

Legend: B samples · C latent channels · h, w latent height and width · H, W picture height and width (padded)
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from kandinsky_runtime.decoder.tiles import Tiling
from kandinsky_runtime.engines.graphs import Graphs
from kandinsky_runtime.observers import Clock
from kandinsky_runtime.pictures.image import from_model
from kandinsky_runtime.units import Unit, Units

Array = npt.NDArray[np.float32]


def encode(graphs: Graphs, pixels: Array, tiling: Tiling | None, clock: Clock) -> Units[Array]:
    """Encode pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w), with a unit for each; in tiles with a tiling.

    Raises:
        EngineError, NonFiniteError: the graph failed, or returned no finite numbers.
    """

    def run(picture: Array, during: str) -> Array:
        return graphs.engine("movq_encoder").run({"image": picture}, during=during)["latents"]

    encode_one = run if tiling is None else partial(tiling.encode, run)
    latents, count = [], len(pixels)
    for i, picture in enumerate(pixels):
        yield Unit("encode", i, count, picture.size)
        with clock("encode"):
            latents.append(encode_one(picture[None], f"picture {i + 1} of {count}"))
    graphs.phase_over("movq_encoder")
    return np.concatenate(latents)


def decode(
    graphs: Graphs, latents: Array, height: int, width: int, tiling: Tiling | None, clock: Clock
) -> Units[Array]:
    """Decode latents (B, C, h, w) to pictures (B, height, width, 3) in [0, 1], without padding; otherwise as `encode`.

    Raises:
        EngineError, NonFiniteError: the graph failed, or returned no finite numbers.
    """

    def run(sample: Array, during: str) -> Array:
        return graphs.engine("movq_decoder").run({"latents": sample}, during=during)["image"]

    decode_one = run if tiling is None else partial(tiling.decode, run)
    pictures, count = [], len(latents)
    for i, sample in enumerate(latents):
        yield Unit("decode", i, count, sample.size)
        with clock("decode"):
            pictures.append(decode_one(sample[None], f"result {i + 1} of {count}"))
    graphs.phase_over("movq_decoder")
    return from_model(np.concatenate(pictures)[:, :, :height, :width])

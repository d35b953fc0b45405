"""MoVQ's own graphs in tiles: one shape is compiled, and what comes out resembles the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kandinsky_export.verification.decibels import decibels
from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from kandinsky_runtime.decoder.tiles import Tiling

TILING = Tiling(factor=8, size=16, overlap=8)


@pytest.fixture
def pipeline(case_pipeline: Callable[[str, str], InpaintPipeline]) -> InpaintPipeline:
    return case_pipeline("four_blocks", "openvino")


def test_decode_and_encode(pipeline: InpaintPipeline) -> None:
    rng = np.random.default_rng(0)
    decoder, encoder = pipeline.engine("movq_decoder"), pipeline.engine("movq_encoder")
    decoder._compiled.clear()  # type: ignore[attr-defined]
    latents = rng.standard_normal((1, 4, 24, 16), np.float32)
    tiled = TILING.decode(lambda tile, _: decoder.run({"latents": tile})["image"], latents, "")
    assert len(decoder._compiled) == 1, "tiles share a shape"  # type: ignore[attr-defined]
    whole = decoder.run({"latents": latents})["image"]
    assert tiled.shape == whole.shape == (1, 3, 192, 128)
    found = decibels(whole, tiled, float(np.ptp(whole)))
    assert 20 < found < np.inf, f"decode: {found:.1f} dB; it is near the whole, and attends to less"

    picture = np.tanh(whole)
    tiled = TILING.encode(lambda tile, _: encoder.run({"image": tile})["latents"], picture, "")
    whole = encoder.run({"image": picture})["latents"]
    assert tiled.shape == whole.shape == (1, 4, 24, 16)
    found = decibels(whole, tiled, float(np.ptp(whole)))
    assert 20 < found < np.inf, f"encode: {found:.1f} dB"

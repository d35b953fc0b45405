"""What inpainting keeps: original where the mask keeps, at the next step's noise level, and clean at the end."""

from __future__ import annotations

import numpy as np
import pytest

from kandinsky_runtime.decoder.kept_area import KeptArea
from kandinsky_runtime.sampling import schedulers
from tests.runtime.fake_bundle import CHANNELS, DDPM
from tests.tolerances import PUT_BACK

RNG = np.random.default_rng(3)
SHAPE = (2, CHANNELS, 3, 5)
ORIGINAL, NOISE, LATENTS = RNG.standard_normal((3, *SHAPE), np.float32)
KEEP = RNG.integers(0, 2, (2, 1, 3, 5)).astype(np.float32)
ALPHAS = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000, dtype=np.float32))


def test_the_unet_sees_masked_latents_and_mask() -> None:
    channels = KeptArea(ORIGINAL, KEEP, NOISE, schedulers.load(DDPM).sampler(4, SHAPE)).channels
    np.testing.assert_array_equal(channels[:, :CHANNELS], ORIGINAL * KEEP)
    np.testing.assert_array_equal(channels[:, CHANNELS:], KEEP)


@pytest.mark.parametrize("i", range(4))
def test_what_is_put_back_after_each_step(i: int) -> None:
    sampler = schedulers.load(DDPM).sampler(4, SHAPE)
    latents = LATENTS.copy()
    KeptArea(ORIGINAL, KEEP, NOISE, sampler).put_back(i, latents)
    if i == 3:
        known = ORIGINAL
    else:
        alpha = ALPHAS[sampler.timesteps[i + 1]]
        known = np.sqrt(alpha) * ORIGINAL + np.sqrt(1 - alpha) * NOISE
    np.testing.assert_allclose(latents, np.where(KEEP == 1, known, LATENTS), rtol=0, atol=PUT_BACK)
    repainted = np.broadcast_to(KEEP == 0, SHAPE)
    np.testing.assert_array_equal(latents[repainted], LATENTS[repainted])

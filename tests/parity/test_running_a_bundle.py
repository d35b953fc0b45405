"""docs/running-a-bundle.md is complete: a program that follows it makes this package's pictures, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.decoder.inpaint import InpaintPipeline
from scripts.goldens import prior as golden
from tests.parity.another_program import Noise, Program

SEED, STEPS, THREADS = 7, 4, 1
WIDTH, HEIGHT = 136, 104  # no multiples of 64: the picture is padded


@pytest.fixture(scope="module")
def bundle(prior_bundle: Callable[[str], Path]) -> Path:
    return prior_bundle(golden.INPAINT)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """A shape without symmetry, that reaches the padded edge."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(255, (20, 30, 75, 61))
    mask.paste(255, (100, 50, WIDTH, HEIGHT))
    return mask


def test_embeddings_and_picture_are_those_of_the_package(bundle: Path, picture: Image.Image, mask: Image.Image) -> None:
    noise = Noise(SEED)
    program = Program(bundle, THREADS)
    embeds = program.embeddings("a hat", noise)
    found = program.inpaint(picture, mask, embeds, noise, STEPS)

    with InpaintPipeline.load(bundle, engine="onnxruntime", precision="fp32", threads=THREADS) as pipe:
        made = pipe.prior("a hat", seed=SEED)
        np.testing.assert_array_equal(embeds[0], made.image_embeds)
        np.testing.assert_array_equal(embeds[1], made.negative_image_embeds)
        expected = pipe("a hat", image=picture, mask_image=mask, num_inference_steps=STEPS, seed=SEED).images[0]
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    changed = (np.asarray(found) != np.asarray(picture)).any(axis=2)
    assert changed.mean() > 0.1
    assert not changed[np.asarray(mask) == 0].any()

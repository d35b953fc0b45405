"""Pictures and masks against ppdiffusers' Kandinsky 2.2 inpainting pipeline."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kandinsky_runtime.pictures.image import fit, from_model, read_image, to_model, to_pil
from kandinsky_runtime.pictures.mask import fit_mask, latent_keep_mask, read_mask
from tests.tolerances import MASK_CELLS

RNG = np.random.default_rng(22)
SIZES = [(64, 64), (33, 97), (128, 40), (7, 5), (1, 1), (301, 200)]


@pytest.fixture(scope="module")
def reference() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle
        from ppdiffusers.image_processor import VaeImageProcessor
        from ppdiffusers.pipelines.kandinsky2_2 import pipeline_kandinsky2_2_inpainting as pipeline
    paddle.set_device("cpu")
    return SimpleNamespace(
        tensor=paddle.to_tensor,
        nearest=lambda x, size: paddle.nn.functional.interpolate(x, size, mode="nearest"),
        prepare=pipeline.prepare_mask_and_masked_image,
        grow=pipeline.prepare_mask,
        to_pil=VaeImageProcessor.numpy_to_pil,
    )


def noise(size: tuple[int, int], mode: str) -> Image.Image:
    """Noise with flat parts, so that resizing overshoots; in colour for RGB."""
    width, height = size
    values = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    values[: height // 2] = np.where(values[: height // 2] > 127, 255, 0)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(64, 64), (96, 72), (100, 130)])
def test_masks_are_bit_equal(
    reference: SimpleNamespace, mode: str, size: tuple[int, int], target: tuple[int, int]
) -> None:
    width, height = target
    mask = noise(size, mode)
    keep, _ = reference.prepare(Image.new("RGB", size), mask, height, width)
    got = fit_mask(read_mask(mask), width, height)
    np.testing.assert_array_equal(1 - got, keep.numpy()[0, 0])


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", SIZES)
def test_pictures_differ_by_a_rounding_at_most(reference: SimpleNamespace, mode: str, size: tuple[int, int]) -> None:
    """Paddle multiplies by 1 / 127.5 where diffusers and this runtime divide: one unit in the last place."""
    picture = noise(size, mode)
    _, expected = reference.prepare(picture, Image.new("L", size), 96, 72)
    got = to_model([fit(read_image(picture), 72, 96)])
    np.testing.assert_allclose(got, expected.numpy(), rtol=0, atol=MASK_CELLS)


def test_output_pictures_are_equal(reference: SimpleNamespace) -> None:
    decoded = RNG.normal(0, 0.7, (2, 3, 33, 40)).astype(np.float32)
    image = (reference.tensor(decoded) * 0.5 + 0.5).clip(0, 1).transpose([0, 2, 3, 1]).numpy()
    got = from_model(decoded)
    np.testing.assert_array_equal(got, image)
    for ours, theirs in zip(to_pil(got), reference.to_pil(image), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize(
    ("size", "cells"),
    [((64, 64), (8, 8)), ((72, 104), (9, 13)), ((8, 96), (1, 12)), ((96, 8), (12, 1)), ((100, 77), (13, 10))],
)
@pytest.mark.parametrize("density", [0.0, 0.1, 0.6, 1.0])
def test_latent_masks_are_equal(
    reference: SimpleNamespace, size: tuple[int, int], cells: tuple[int, int], density: float
) -> None:
    mask = (RNG.random((2, *size)) < density).astype(np.float32)
    expected = reference.grow(reference.nearest(reference.tensor(1 - mask)[:, None], cells))
    np.testing.assert_array_equal(latent_keep_mask(mask, *cells), expected.numpy())


def test_nearest_neighbour_agrees_at_every_ratio(reference: SimpleNamespace) -> None:
    """Columns are numbered; one mask per bit of the number shows which column each cell was taken from."""
    for size in range(1, 200):
        for cells in {1, 3, 7, 13, 24, 61, 100, max(1, size // 8), -(-size // 8)}:
            columns = np.arange(size, dtype=np.float32)
            expected = reference.nearest(reference.tensor(columns[None, None, None]), (1, cells)).numpy()[0, 0, 0]
            for bit in range(8):
                mask = (columns.astype(int) >> bit & 1).astype(np.float32)
                repaint = expected.astype(int) >> bit & 1
                grown = repaint | np.append(repaint[1:], 0) | np.append(0, repaint[:-1])
                np.testing.assert_array_equal(latent_keep_mask(mask[None, None], 1, cells)[0, 0, 0], 1 - grown)

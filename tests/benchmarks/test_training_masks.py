"""The masks of training: kept cells as the inpainting pipeline makes them, and what they cover."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.training.masks import kept_cells, mask_around, random_mask
from scripts.training.settings import LATENT


def reference(repaint: np.ndarray) -> np.ndarray:
    """Diffusers' `prepare_mask`, cell by cell: 1 is kept."""
    kept = 1 - repaint.astype(np.float32)
    grown = kept.copy()
    height, width = kept.shape
    for i in range(height):
        for j in range(width):
            if kept[i, j] == 1:
                continue
            for dy, dx in ((-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)):
                if 0 <= i + dy < height and 0 <= j + dx < width:
                    grown[i + dy, j + dx] = 0
    return grown


@pytest.mark.parametrize("seed", range(8))
def test_kept_cells_are_the_pipelines(seed: int) -> None:
    mask = random_mask(np.random.default_rng(seed))
    scale = len(mask) // LATENT
    assert np.array_equal(kept_cells(mask), reference(mask[::scale, ::scale]))


def test_masks_around_cover_their_boxes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.uniform(0, 0.7, size=2)
        boxes = [(x, y, x + 0.2, y + 0.3), (x + 0.05, y - 0.1, x + 0.15, y)]
        mask = mask_around(rng, boxes)
        side = len(mask)
        for left, top, right, bottom in boxes:
            rows = slice(max(0, round(top * side) + 1), round(bottom * side) - 1)
            columns = slice(round(left * side) + 1, round(right * side) - 1)
            assert mask[rows, columns].all()
        assert not mask.all()


def test_random_masks_vary() -> None:
    shares = [random_mask(np.random.default_rng(seed)).mean() for seed in range(60)]
    assert max(shares) == 1
    assert min(shares) < 0.1
    assert np.std(shares) > 0.1

"""Limits of a predicted x_0, against numpy's own functions."""

from __future__ import annotations

import numpy as np
import pytest

from kandinsky_runtime.sampling.schedulers.limits import Clip, Threshold
from tests.tolerances import QUANTILE_RANK

PREDICTION = (np.random.default_rng(1).standard_normal((3, 4, 5, 2)) * [[[[0.1]]], [[[1]]], [[[9]]]]).astype(np.float32)


def apply(limit: Clip | Threshold) -> np.ndarray:
    prediction = PREDICTION.copy()
    limit.apply(prediction, np.full_like(prediction, np.nan))
    assert prediction.dtype == np.float32
    return prediction


@pytest.mark.parametrize("bound", [0.5, 1.0, 10.0])
def test_clip(bound: float) -> None:
    np.testing.assert_array_equal(apply(Clip(bound)), np.clip(PREDICTION, -np.float32(bound), np.float32(bound)))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.7, 0.995, 1.0])
@pytest.mark.parametrize("highest", [1.0, 3.0, 100.0])
def test_threshold_uses_the_quantile_of_each_sample(ratio: float, highest: float) -> None:
    result = apply(Threshold(ratio, highest))
    for sample, original in zip(result, PREDICTION.astype(np.float64), strict=True):
        bound = min(max(float(np.quantile(np.abs(original), ratio)), 1.0), highest)
        # The rank is computed in float32, as in torch.
        np.testing.assert_allclose(sample, np.clip(original, -bound, bound) / bound, rtol=0, atol=QUANTILE_RANK)
    assert np.abs(result).max() <= 1


def test_a_small_sample_is_unchanged_by_threshold() -> None:
    np.testing.assert_array_equal(apply(Threshold(0.995, 2.0))[0], PREDICTION[0])

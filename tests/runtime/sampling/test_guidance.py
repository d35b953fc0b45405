"""Classifier-free guidance: equation 2 of Imagen, on the halves of a batch."""

from __future__ import annotations

import numpy as np
import pytest

from kandinsky_runtime.sampling.guidance import combine, is_guided
from tests.tolerances import GUIDED

RNG = np.random.default_rng(0)


def output(channels: int = 8) -> np.ndarray:
    array = RNG.standard_normal((4, channels, 3, 5)).astype(np.float32)
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0, 7.5])
def test_combine_equals_the_equation(scale: float) -> None:
    both = output()
    mixed = combine(both, scale, 4, np.empty((2, 4, 3, 5), np.float32))
    negative, positive = both[:2, :4].astype(np.float64), both[2:, :4].astype(np.float64)
    np.testing.assert_allclose(mixed, negative + scale * (positive - negative), rtol=0, atol=GUIDED)
    assert mixed.dtype == np.float32


def test_the_variance_is_the_conditional_halfs() -> None:
    both = output()
    out = np.empty((2, 8, 3, 5), np.float32)
    assert combine(both, 4.0, 4, out) is out
    np.testing.assert_array_equal(out[:, 4:], both[2:, 4:])
    np.testing.assert_array_equal(out[:, :4], combine(both, 4.0, 4, np.empty((2, 4, 3, 5), np.float32)))


def test_without_variance_channels() -> None:
    both = output(4)
    np.testing.assert_array_equal(combine(both, 0.0, 4, np.empty((2, 4, 3, 5), np.float32)), both[:2])


def test_overflow_is_left_for_the_scheduler_to_report() -> None:
    both = np.full((2, 4, 1, 1), 1e38, np.float32)
    both[0] = 0
    assert np.isinf(combine(both, 100.0, 4, np.empty((1, 4, 1, 1), np.float32))).all()


@pytest.mark.parametrize(("scale", "guided"), [(0, False), (0.5, False), (1, False), (1.0001, True), (4, True)])
def test_guidance_is_on_above_one(scale: float, guided: bool) -> None:
    assert is_guided(scale) is guided

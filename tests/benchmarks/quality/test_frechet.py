"""The Fréchet distance against closed forms of normal distributions, and against SciPy's matrix root."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.frechet import Gaussian, frechet_distance
from tests.tolerances import FRECHET, FRECHET_FEW, FRECHET_SAMPLES


def gaussian(seed: int, size: int = 6) -> Gaussian:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, size))
    return Gaussian(rng.normal(size=size), factor @ factor.T)


def test_of_itself() -> None:
    assert frechet_distance(gaussian(0), gaussian(0)) == pytest.approx(0, abs=FRECHET)


def test_of_a_shift() -> None:
    first = gaussian(0)
    shift = np.arange(6.0)
    assert frechet_distance(first, Gaussian(first.mean + shift, first.covariance)) == pytest.approx(shift @ shift)


@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, 3)), ((2, 0.5), (-1, 0.5)), ((1, 0), (4, 2))])
def test_in_one_dimension(a: tuple[float, float], b: tuple[float, float]) -> None:
    """(μ₁ - μ₂)² + (σ₁ - σ₂)²."""
    first, second = (Gaussian(np.array([m]), np.array([[s**2]])) for m, s in (a, b))
    assert frechet_distance(first, second) == pytest.approx((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2)


def test_of_commuting_covariances() -> None:
    """With common axes, the roots of the variances subtract axis by axis."""
    axes = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    s, t = np.array([1.0, 2, 3, 0, 5]), np.array([2.0, 2, 0.5, 1, 4])
    first, second = (Gaussian(np.zeros(5), axes @ np.diag(v**2) @ axes.T) for v in (s, t))
    assert frechet_distance(first, second) == pytest.approx(((s - t) ** 2).sum())


def test_scipys_root_gives_the_same() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = gaussian(1), gaussian(2)
    root = linalg.sqrtm(first.covariance @ second.covariance).real
    apart = first.mean - second.mean
    expected = apart @ apart + np.trace(first.covariance + second.covariance - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=FRECHET)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=FRECHET)


def test_of_samples() -> None:
    """Large samples of known distributions come near the closed form."""
    rng = np.random.default_rng(3)
    first = Gaussian.of(rng.normal(0, 1, (200_000, 3)))
    second = Gaussian.of(rng.normal((1, 0, 0), 2, (200_000, 3)).astype(np.float32))
    assert frechet_distance(first, second) == pytest.approx(1 + 3, rel=FRECHET_SAMPLES)


def test_fewer_pictures_than_features() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(5, 40))
    assert frechet_distance(Gaussian.of(features), Gaussian.of(features)) == pytest.approx(0, abs=FRECHET_FEW)
    assert frechet_distance(Gaussian.of(features), Gaussian.of(features + 1)) == pytest.approx(40)

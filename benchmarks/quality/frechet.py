"""The Fréchet distance of two sets of pictures, in a judge's features; numpy only.

Legend: N pictures · D features
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """The normal distribution that features are taken for.

    Attributes:
        mean: (D,) float64.
        covariance: (D, D) float64.
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """The mean and the unbiased covariance of features (N, D), N at least 2."""
        values = features.astype(np.float64)
        return cls(values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False)))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|μ₁ - μ₂|² + tr(C₁ + C₂ - 2 (C₁^½ C₂ C₁^½)^½): Dowson & Landau, The Fréchet distance between multivariate normal
    distributions, 1982. Heusel et al. 2017, arXiv:1706.08500, use it for pictures.

    The trace of the root is the sum of the roots of the eigenvalues, of a symmetric matrix. It is too large for few
    pictures: compare sets of one size only.
    """
    half = _root(first.covariance)
    product = half @ second.covariance @ half
    values = np.linalg.eigvalsh((product + product.T) / 2)
    root_trace = np.sqrt(np.clip(values, 0, None)).sum()
    apart = np.square(first.mean - second.mean).sum()
    return float(max(0.0, apart + np.trace(first.covariance) + np.trace(second.covariance) - 2 * root_trace))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric root of a positive semidefinite matrix (D, D)."""
    values, vectors = np.linalg.eigh(matrix)
    root: np.ndarray = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root

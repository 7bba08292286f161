"""The Fréchet distance of two sets of features, each described by its mean and covariance.

Shape suffixes: B batch, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["FeatureStatistics", "FrechetDistance", "frechet_distance"]


class FeatureStatistics:
    """Mean and covariance of features that come in batches, in float64 on the CPU.

    Memory is that of one covariance, however many features come. Batches are merged by the mean and the scatter about
    it (Chan, Golub and LeVeque 1983, doi 10.1080/00031305.1983.10483115), so that features far from zero lose nothing,
    as they would in sums of squares.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean_D = torch.zeros(0, dtype=torch.float64)
        self._scatter_DD = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, features_BD: Tensor) -> None:
        """Takes in a batch, which may be empty.

        Raises:
            ValueError: If its shape isn't (B, D), or D isn't that of the batches before.
        """
        expected = f"(B, {len(self._mean_D)})" if self.count else "(B, D)"
        if features_BD.dim() != 2 or (self.count and features_BD.shape[1] != len(self._mean_D)):
            raise ValueError(f"features of shape {tuple(features_BD.shape)}: expected {expected}")
        added = len(features_BD)
        if not added:
            return
        features_BD = features_BD.detach().cpu().double()  # in this order: some devices have no float64
        mean_D = features_BD.mean(dim=0)
        scatter_DD = (features_BD - mean_D).T @ (features_BD - mean_D)
        if not self.count:
            self.count, self._mean_D, self._scatter_DD = added, mean_D, scatter_DD
            return
        total = self.count + added
        step_D = mean_D - self._mean_D
        self._scatter_DD += scatter_DD + torch.outer(step_D, step_D) * (self.count * added / total)
        self._mean_D = self._mean_D + step_D * (added / total)  # not in place: `mean` gave it away
        self.count = total

    def mean(self) -> Tensor:
        """(D,) float64.

        Raises:
            ValueError: If no features came.
        """
        self._need(1)
        return self._mean_D

    def covariance(self) -> Tensor:
        """(D, D) float64: the sample covariance, divided by the count less one.

        Raises:
            ValueError: If the features of fewer than two clips came.
        """
        self._need(2)
        return self._scatter_DD / (self.count - 1)

    def _need(self, at_least: int) -> None:
        if self.count < at_least:
            raise ValueError(f"the features of {self.count} clip(s) came: expected at least {at_least}")


class FrechetDistance:
    """The distance of two sets of clips by their features; with those of `video_features`, FVD (arXiv 1812.01717)."""

    def __init__(self) -> None:
        self.reference = FeatureStatistics()
        self.decoded = FeatureStatistics()

    def update(self, reference_BD: Tensor, decoded_BD: Tensor) -> None:
        """Takes in a batch of each side's features; they need not be equally many."""
        self.reference.update(reference_BD)
        self.decoded.update(decoded_BD)

    def compute(self) -> float:
        """The distance of what came so far. It is too large with few clips: compare at equal numbers only.

        Raises:
            ValueError: If either side has fewer than two clips.
        """
        a, b = self.reference, self.decoded
        return frechet_distance(a.mean(), a.covariance(), b.mean(), b.covariance())


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The squared 2-Wasserstein distance of two Gaussians, |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)).

    Dowson and Landau 1982, doi 10.1016/0047-259X(82)90077-X. The trace of the root is the sum of the singular values of
    A^(1/2) B^(1/2), of which the product A B has the squares as eigenvalues. Taken so, with the roots from symmetric
    eigendecompositions, rounding stays rounding where covariances are singular, as they are with fewer clips than
    features; a root of the product would make 1e-8 of its 1e-16.

    Args:
        mean_a: (D,), any float dtype; computed in float64.
        cov_a: (D, D), symmetric; eigenvalues below zero count as zero.
        mean_b: (D,).
        cov_b: (D, D).

    Returns:
        At least 0; NaN where an argument isn't finite.
    """
    mean_a, cov_a, mean_b, cov_b = (x.detach().cpu().double() for x in (mean_a, cov_a, mean_b, cov_b))
    if not all(x.isfinite().all() for x in (mean_a, cov_a, mean_b, cov_b)):
        return float("nan")
    root_of_product = torch.linalg.svdvals(_factor(cov_a).T @ _factor(cov_b))
    squared = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_of_product.sum()
    return max(0.0, float(squared))


def _factor(cov_DD: Tensor) -> Tensor:
    """F with F F^T = cov: the root but for a rotation, which singular values don't see."""
    eigenvalues_D, vectors_DD = torch.linalg.eigh(cov_DD)
    factor_DD: Tensor = vectors_DD * eigenvalues_D.clamp(min=0).sqrt()
    return factor_DD

"""Mean and covariance of features that arrive in batches."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of outer products of deviations from it, in float64 on the CPU.

    Immutable: ``a.merge(b)`` are the moments of both sets together, in whatever parts and order they came.

    Attributes:
        count: Number of feature vectors.
        mu_D: Their mean.
        scatter_DD: Sum over vectors of (x − mu)(x − mu)ᵀ.
    """

    count: int
    mu_D: Tensor
    scatter_DD: Tensor

    @classmethod
    def empty(cls, dim: int) -> "Moments":
        """Return the moments of no vectors."""
        return cls(0, torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64))

    @classmethod
    def of(cls, features_ND: Tensor) -> "Moments":
        """Return the moments of a batch of at least one vector."""
        features_ND = features_ND.double()
        mu_D = features_ND.mean(dim=0)
        centred_ND = features_ND - mu_D
        return cls(features_ND.shape[0], mu_D.cpu(), (centred_ND.T @ centred_ND).cpu())

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together.

        Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances" (1979), eq. 2.1, for vectors.
        """
        count = self.count + other.count
        if count == 0:
            return self
        delta_D = other.mu_D - self.mu_D
        mu_D = self.mu_D + delta_D * (other.count / count)
        scatter_DD = self.scatter_DD + other.scatter_DD
        return Moments(count, mu_D, scatter_DD + torch.outer(delta_D, delta_D) * (self.count * other.count / count))

    def without(self, other: "Moments") -> "Moments":
        """Return the moments of this set without those vectors of it: ``a.merge(b).without(b)`` is ``a``.

        Raises:
            ValueError: Nothing is left.
        """
        count = self.count - other.count
        if count < 1:
            raise ValueError(f"of {self.count} vectors none are left without {other.count}")
        mu_D = self.mu_D + (self.mu_D - other.mu_D) * (other.count / count)
        delta_D = other.mu_D - mu_D
        scatter_DD = self.scatter_DD - other.scatter_DD
        return Moments(count, mu_D, scatter_DD - torch.outer(delta_D, delta_D) * (count * other.count / self.count))

    @property
    def cov_DD(self) -> Tensor:
        """Unbiased covariance (divided by N − 1), exactly symmetric.

        Raises:
            ValueError: Fewer than two vectors.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least two vectors, not {self.count}")
        return (self.scatter_DD + self.scatter_DD.T) / (2 * (self.count - 1))

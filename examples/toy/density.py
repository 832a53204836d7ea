"""Densities on a grid, where every expectation is exact: the data, exponential families, and what tells them apart.

Shapes: N points of the grid, K statistics of a family. All float64; densities are probabilities of the grid's points.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

GRID_N = torch.linspace(-8, 8, 401, dtype=torch.float64)
# A main mode with three quarters of the mass, and a side mode.
MODES = ((0.75, -1.0, 0.5), (0.25, 2.5, 0.6))  # weight, mean, standard deviation
SIDE_MODE_FROM = 1.0


def data_density() -> Tensor:
    """Return log p_data. Shape (N,)."""
    parts = [math.log(weight / std) - ((GRID_N - mean) / std).square() / 2 for weight, mean, std in MODES]
    return torch.stack(parts).logsumexp(0).log_softmax(0)


def blurred(log_p_N: Tensor, std: float) -> Tensor:
    """Return the density of a sample of ``p`` plus Gaussian noise, on the grid. Shape (N,)."""
    kernel_NN = (-((GRID_N[:, None] - GRID_N) / std).square() / 2).log_softmax(0)
    return (kernel_NN + log_p_N).logsumexp(1)


@dataclass(frozen=True)
class ExponentialFamily:
    """``p_theta(x) ∝ exp(theta · T(x))``, normalised on the grid.

    Attributes:
        statistics_KN: T, with mean 0 and covariance 1 under the data.
    """

    statistics_KN: Tensor

    @classmethod
    def of_polynomials(cls, degree: int, log_p_data_N: Tensor) -> "ExponentialFamily":
        """Return the family whose log-densities are polynomials: of degree 2 Gaussians, of degree 4 up to two modes."""
        powers_KN = torch.stack([(GRID_N / 4) ** power for power in range(1, degree + 1)])
        p_N = log_p_data_N.exp()
        centred_KN = powers_KN - (powers_KN @ p_N)[:, None]
        covariance_KK = (centred_KN * p_N) @ centred_KN.T
        return cls(torch.linalg.solve_triangular(torch.linalg.cholesky(covariance_KK), centred_KN, upper=False))

    def log_density(self, theta_K: Tensor) -> Tensor:
        """Return log p_theta. Shape (N,)."""
        return (theta_K @ self.statistics_KN).log_softmax(0)

    def closest_to(self, log_p_N: Tensor) -> Tensor:
        """Return theta at the maximum of the likelihood of data from ``p``, by Newton's method. Shape (K,)."""
        p_N, theta_K = log_p_N.exp(), torch.zeros(len(self.statistics_KN), dtype=torch.float64)

        def loss(theta_K: Tensor) -> Tensor:
            return -(p_N * self.log_density(theta_K)).sum()

        for _ in range(200):
            gradient_K = self.statistics_KN @ (self.log_density(theta_K).exp() - p_N)
            if gradient_K.abs().max() < 1e-13:
                break
            step_K = torch.linalg.solve(self.fisher_information(theta_K), gradient_K)
            size = 1.0
            while loss(theta_K - size * step_K) > loss(theta_K) + 1e-15:
                size /= 2
            theta_K = theta_K - size * step_K
        return theta_K

    def fisher_information(self, theta_K: Tensor) -> Tensor:
        """Return the covariance of the statistics under the model. Shape (K, K)."""
        q_N = self.log_density(theta_K).exp()
        centred_KN = self.statistics_KN - (self.statistics_KN @ q_N)[:, None]
        return (centred_KN * q_N) @ centred_KN.T


def divergence(log_p_N: Tensor, log_q_N: Tensor) -> Tensor:
    """Return KL(p ‖ q) in nats, 0-dim."""
    return (log_p_N.exp() * (log_p_N - log_q_N)).sum()


@dataclass(frozen=True)
class Measures:
    """How a model differs from the data.

    Attributes:
        kl: KL(p_data ‖ p_model), nats: what maximum likelihood minimises. Large where data are not covered.
        reverse_kl: KL(p_model ‖ p_data): large where the model draws what the data do not hold.
        where_rare: Mass where the data have less than a tenth of their highest density.
        side_mode: Mass of the side mode's half; the data have 0.25 there.
    """

    kl: float
    reverse_kl: float
    where_rare: float
    side_mode: float

    @classmethod
    def of(cls, log_q_N: Tensor, log_p_data_N: Tensor) -> "Measures":
        """Measure a model."""
        q_N = log_q_N.exp()
        rare_N = log_p_data_N < log_p_data_N.max() - torch.tensor(10.0).log()
        return cls(
            kl=float(divergence(log_p_data_N, log_q_N)),
            reverse_kl=float(divergence(log_q_N, log_p_data_N)),
            where_rare=float(q_N[rare_N].sum()),
            side_mode=float(q_N[GRID_N > SIDE_MODE_FROM].sum()),
        )

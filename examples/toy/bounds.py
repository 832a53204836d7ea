"""Theorem 3.2 on the grid: how far from the data a density can be whose DDO loss is near the optimum."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ddo_engine.spec import DDOObjective
from examples.toy.density import GRID_N, divergence
from examples.toy.training import expected_loss

PLAIN = DDOObjective(alpha=1, beta=1)


@dataclass(frozen=True)
class Constants:
    """C1 and C2 of the theorem for densities with ``|log p_theta / p_ref| <= M``.

    Attributes:
        M: That bound, nats.
        C1: Bounds KL(p_data ‖ p_theta).
        C2: Bounds KL(p_theta ‖ p_data).
    """

    M: float
    C1: float
    C2: float

    @classmethod
    def of(cls, log_p_data_N: Tensor, log_p_ref_N: Tensor, M: float) -> "Constants":
        """Return the constants: Taylor's theorem at p_data, with the second derivative at the ends of the range.

        Source: arXiv:2503.01103, appendix B.1, eqs. 26–33.
        """
        M1, M2 = (float((sign * (log_p_data_N - log_p_ref_N)).max()) for sign in (1, -1))
        of_ratio = 2 + math.exp(M) + math.exp(-M)
        forward, reverse = (max(of_ratio / (1 + math.exp(-m)), 1 + math.exp(m)) for m in (M1, M2))
        return cls(M, math.sqrt(2 * forward), math.sqrt(2 * math.exp(M) * reverse))


@dataclass(frozen=True)
class Excess:
    """A density's loss above the optimum, and its divergences from the data.

    Attributes:
        loss: ``L(theta) − L*``, nats.
        kl: KL(p_data ‖ p_theta).
        reverse_kl: KL(p_theta ‖ p_data).
        of_mixtures: KL between the even mixtures of either with the reference: twice it is ``kl − loss`` (eq. 24).
        max_ratio: The largest ``|log p_theta / p_ref|`` on the grid.
    """

    loss: float
    kl: float
    reverse_kl: float
    of_mixtures: float
    max_ratio: float

    @classmethod
    def of(cls, log_q_N: Tensor, log_p_data_N: Tensor, log_p_ref_N: Tensor) -> "Excess":
        """Measure a density."""
        losses = [expected_loss(log_p_N, log_p_data_N, log_p_ref_N, PLAIN) for log_p_N in (log_q_N, log_p_data_N)]
        mixtures = [torch.logaddexp(log_p_N, log_p_ref_N) - math.log(2) for log_p_N in (log_p_data_N, log_q_N)]
        return cls(
            loss=float(losses[0] - losses[1]),
            kl=float(divergence(log_p_data_N, log_q_N)),
            reverse_kl=float(divergence(log_q_N, log_p_data_N)),
            of_mixtures=float(divergence(*mixtures)),
            max_ratio=float((log_q_N - log_p_ref_N).abs().max()),
        )


def with_background(log_p_N: Tensor, share: float = 0.01) -> Tensor:
    """Return the density mixed with a uniform one, without which ratios are unbounded for practical purposes."""
    uniform_N = torch.full_like(log_p_N, -math.log(len(log_p_N)))
    return torch.logaddexp(log_p_N + math.log(1 - share), uniform_N + math.log(share))


def perturbed(log_p_N: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """Return a density near ``p``: times the exponential of a random smooth function of this size. Shape (N,)."""
    frequencies_F = torch.arange(1, 13, dtype=torch.float64) / 4
    waves_FN = (frequencies_F[:, None] * GRID_N + 2 * math.pi * torch.rand(12, 1, generator=generator)).cos()
    weights_F = torch.randn(12, generator=generator, dtype=torch.float64)
    wave_N = weights_F @ waves_FN
    return (log_p_N + size * wave_N / wave_N.abs().max()).log_softmax(0)


def random_densities(log_p_data_N: Tensor, log_p_ref_N: Tensor, num: int, seed: int) -> list[Tensor]:
    """Return perturbations of the data, of the reference and of what lies between them, of sizes from 0.001 to 3."""
    generator = torch.Generator().manual_seed(seed)
    densities = []
    for _ in range(num):
        share, magnitude = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        between_N = share * log_p_data_N + (1 - share) * log_p_ref_N
        densities.append(perturbed(between_N.log_softmax(0), 10 ** (-3 + 3.5 * magnitude), generator))
    return densities


@dataclass(frozen=True)
class Tightness:
    """How near random densities come to the bounds: the largest share of each that one of them reaches.

    Attributes:
        num: So many densities.
        kl: Of ``C1 √(L − L*)``.
        reverse_kl: Of ``C2 √(L − L*)``.
        excess: ``(L − L*) / KL(p_data ‖ p_theta)``, at most 1 whatever the ratios.
    """

    num: int
    kl: float
    reverse_kl: float
    excess: float


def check_bounds(log_p_data_N: Tensor, log_p_ref_N: Tensor, *, num: int, seed: int = 0) -> Tightness:
    """Compare random densities with their bounds; above 1 a bound would be broken."""
    kl, reverse_kl, excess = 0.0, 0.0, 0.0
    for log_q_N in random_densities(log_p_data_N, log_p_ref_N, num, seed):
        found = Excess.of(log_q_N, log_p_data_N, log_p_ref_N)
        constants = Constants.of(log_p_data_N, log_p_ref_N, found.max_ratio)
        root = math.sqrt(found.loss)
        kl = max(kl, found.kl / (constants.C1 * root))
        reverse_kl = max(reverse_kl, found.reverse_kl / (constants.C2 * root))
        excess = max(excess, found.loss / found.kl)
    return Tightness(num, kl, reverse_kl, excess)

"""Fréchet distance: time against scipy.linalg.sqrtm at Inception's size, and errors against arithmetic of 50 digits.

    python -m bench.frechet [--dim 2048] [--repeats 3]

The same two covariances, by :func:`ddo_engine.evaluation.frechet_distance` and as the usual packages do it, by the
square root of their product; a second pair has one of fewer samples than dimensions. The two take turns, and the
least time of the repeats counts. Prints tables in Markdown.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import mpmath
import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from ddo_engine.evaluation import frechet_distance

DIGITS, SMALL_DIM, NUM_PAIRS = 50, 16, 5
CONDITIONS = (1e2, 1e4, 1e6, 1e8, 1e12)


def by_sqrtm(cov1_DD: Tensor, cov2_DD: Tensor) -> float:
    """Return tr(C1 + C2 − 2 (C1 C2)^½) as the usual packages compute it."""
    root_DD = sqrtm((cov1_DD @ cov2_DD).numpy())
    return float(cov1_DD.trace() + cov2_DD.trace() - 2 * np.trace(root_DD).real)


def ours(cov1_DD: Tensor, cov2_DD: Tensor) -> float:
    """Return the same, which is the distance of Gaussians with one mean."""
    mu_D = torch.zeros(len(cov1_DD), dtype=torch.float64)
    return frechet_distance(mu_D, cov1_DD, mu_D, cov2_DD)


def exact(cov1_DD: Tensor, cov2_DD: Tensor) -> mpmath.mpf:
    """Return the same to many digits: with C2 = B Bᵀ, (C1 C2)^½ has the trace of (Bᵀ C1 B)^½."""
    cov1, cov2 = mpmath.matrix(cov1_DD.tolist()), mpmath.matrix(cov2_DD.tolist())
    values, vectors = mpmath.eigsy(cov2)
    factor = vectors * mpmath.diag([mpmath.sqrt(max(value, 0)) for value in values])
    squares = mpmath.eigsy(factor.T * cov1 * factor, eigvals_only=True)
    traces = sum(cov1[index, index] + cov2[index, index] for index in range(cov1.rows))
    return traces - 2 * sum(mpmath.sqrt(max(square, 0)) for square in squares)


def covariance(dim: int, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return that of samples whose standard deviations fall like k^−0.8 along axes turned at random."""
    turn_DD = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    scale_D = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.8
    samples_ND = torch.randn(num_samples, dim, generator=generator, dtype=torch.float64) * scale_D
    return torch.cov((samples_ND @ turn_DD).T)


def of_condition(condition: float, generator: torch.Generator) -> Tensor:
    """Return a small covariance whose eigenvalues fall evenly on a logarithmic scale."""
    turn_DD = torch.linalg.qr(torch.randn(SMALL_DIM, SMALL_DIM, generator=generator, dtype=torch.float64))[0]
    eigenvalues_D = torch.logspace(0, -float(np.log10(condition)), SMALL_DIM, dtype=torch.float64)
    cov_DD: Tensor = turn_DD * eigenvalues_D @ turn_DD.T
    return (cov_DD + cov_DD.T) / 2


def of_few(num_samples: int, generator: torch.Generator) -> Tensor:
    """Return a small covariance of fewer samples than dimensions."""
    return torch.cov(torch.randn(num_samples, SMALL_DIM, generator=generator, dtype=torch.float64).T)


def seconds(measure: Callable[[Tensor, Tensor], float], pair: tuple[Tensor, Tensor]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    measure(*pair)
    return time.perf_counter() - start


@dataclass(frozen=True)
class Errors:
    """The largest errors over pairs."""

    ours: float
    sqrtm: float

    @classmethod
    def over(cls, pairs: Iterator[tuple[Tensor, Tensor]]) -> "Errors":
        """Measure them."""
        found = [(abs(ours(*pair) - exact(*pair)), abs(by_sqrtm(*pair) - exact(*pair))) for pair in pairs]
        return cls(float(max(mine for mine, _ in found)), float(max(other for _, other in found)))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=2048, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="default: %(default)s")
    arguments = parser.parse_args()
    mpmath.mp.dps = DIGITS
    generator = torch.Generator().manual_seed(0)
    dim = arguments.dim
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} processors\n")
    print("| covariances | ours, s | sqrtm, s | times faster | relative difference |\n|---|---|---|---|---|")
    for title, counts in (
        (f"{dim} x {dim}, of {5 * dim:,} and {3 * dim:,} samples", (5 * dim, 3 * dim)),
        (f"{dim} x {dim}, of {5 * dim:,} and {dim // 2:,} samples", (5 * dim, dim // 2)),
    ):
        pair = (covariance(dim, counts[0], generator), covariance(dim, counts[1], generator))
        times = [(seconds(ours, pair), seconds(by_sqrtm, pair)) for _ in range(arguments.repeats)]
        mine, other = (min(each) for each in zip(*times, strict=True))
        apart = abs(ours(*pair) / by_sqrtm(*pair) - 1)
        print(f"| {title} | {mine:.2f} | {other:.2f} | {other / mine:.1f} | {apart:.1e} |", flush=True)
    print(f"\n| {SMALL_DIM} x {SMALL_DIM}, {NUM_PAIRS} pairs | largest error, ours | sqrtm |\n|---|---|---|")
    cases: dict[str, Callable[[torch.Generator], Tensor]] = {
        f"condition {condition:.0e}": partial(of_condition, condition) for condition in CONDITIONS
    }
    cases["of 8 samples"] = partial(of_few, 8)
    for title, draw in cases.items():
        errors = Errors.over((draw(generator), draw(generator)) for _ in range(NUM_PAIRS))
        print(f"| {title} | {errors.ours:.1e} | {errors.sqrtm:.1e} |", flush=True)


if __name__ == "__main__":
    main()

"""KID: the definition, a closed form, and the subsets."""

import math

import pytest
import torch
from torch import Tensor

from ddo_engine.evaluation.kernel_distance import kernel_distance, squared_discrepancy


def vectors(count: int, seed: int, dim: int = 5, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def naive(real: Tensor, fake: Tensor) -> float:
    """Equation 4 pair by pair."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (math.fsum((a.double() * b.double()).tolist()) / len(a) + 1) ** 3

    def within(rows: Tensor) -> float:
        count = len(rows)
        pairs = [kernel(rows[i], rows[j]) for i in range(count) for j in range(count) if i != j]
        return math.fsum(pairs) / len(pairs)

    between = [kernel(x, y) for x in real for y in fake]
    return within(real) + within(fake) - 2 * math.fsum(between) / len(between)


def test_squared_discrepancy_is_the_definition() -> None:
    real, fake = vectors(12, 0), vectors(9, 1, shift=0.3)
    assert squared_discrepancy(real, fake) == pytest.approx(naive(real, fake), rel=1e-12)


def test_subsets_of_all_vectors_are_the_whole_and_do_not_spread() -> None:
    real, fake = vectors(40, 0), vectors(40, 1, shift=0.3)
    mean, spread = kernel_distance(real, fake, num_subsets=3, subset_size=40)
    assert mean == pytest.approx(squared_discrepancy(real, fake), rel=1e-12)
    assert spread < 1e-12


def test_kernel_distance_is_without_bias_whatever_the_size_of_subsets() -> None:
    """In one dimension (x y + 1)³ gives 3 (Δm1)² + 3 (Δm2)² + (Δm3)² in the raw moments m; the biased one adds 1/S."""
    real, fake = vectors(40_000, 0, dim=1), vectors(40_000, 1, dim=1, shift=0.5)
    expected = 3 * 0.5**2 + 3 * 0.25**2 + (0.5**3 + 3 * 0.5) ** 2
    for subset_size in (10, 100):
        mean, spread = kernel_distance(real, fake, num_subsets=1000, subset_size=subset_size)
        assert mean == pytest.approx(expected, abs=4 * spread / 1000**0.5)
    assert mean == pytest.approx(expected, rel=0.1)


def test_kernel_distance_of_one_distribution_is_zero_within_its_spread() -> None:
    mean, spread = kernel_distance(vectors(5000, 0), vectors(5000, 1), num_subsets=50, subset_size=200)
    assert abs(mean) < spread
    assert mean != 0


def test_subsets_are_the_same_each_time() -> None:
    real, fake = vectors(60, 0), vectors(50, 1)
    first, again = (kernel_distance(real, fake, num_subsets=4, subset_size=20) for _ in range(2))
    assert first == again
    assert first[1] > 0


@pytest.mark.parametrize(("num_subsets", "subset_size"), [(0, 5), (1, 1), (1, 11)])
def test_subsets_that_cannot_be_drawn_are_refused(num_subsets: int, subset_size: int) -> None:
    with pytest.raises(ValueError, match="cannot be drawn of 20 and 10"):
        kernel_distance(vectors(20, 0), vectors(10, 1), num_subsets=num_subsets, subset_size=subset_size)

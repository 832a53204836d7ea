import math

import pytest
import torch
from torch import Tensor

from ddo_engine.evaluation.density_coverage import density_coverage
from ddo_engine.evaluation.precision_recall import Manifold, precision_recall


def vectors(count: int, seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) * scale


def naive(real: Tensor, fake: Tensor, neighbours: int) -> tuple[float, float]:
    """Equations 1 and 2 word for word, with all distances in memory."""

    def inside(queries: Tensor, centres: Tensor) -> float:
        centres, queries = centres.double(), queries.double()
        between = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
        radii = between.sort(dim=1).values[:, neighbours]
        distances = torch.cdist(queries, centres, compute_mode="donot_use_mm_for_euclid_dist")
        return float((distances <= radii[None, :]).any(dim=1).double().mean())

    return inside(fake, real), inside(real, fake)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_precision_recall_equals_the_definition(neighbours: int, scale: float) -> None:
    real, fake = vectors(150, 0), vectors(90, 1, scale)
    found = precision_recall(Manifold.of(real, neighbours), fake)
    assert found == naive(real, fake, neighbours)
    assert all(0 < value <= 1 for value in found)


@pytest.mark.parametrize("chunk_bytes", [1, 8 * 150 * 7, 10**9])
def test_precision_recall_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    real, fake = vectors(150, 0), vectors(90, 1)
    expected = precision_recall(Manifold.of(real, 3), fake)
    monkeypatch.setattr("ddo_engine.evaluation.precision_recall.CHUNK_BYTES", chunk_bytes)
    assert precision_recall(Manifold.of(real, 3), fake) == expected


def test_precision_recall_same_set_is_one_and_distant_sets_zero() -> None:
    real = vectors(50, 0)
    assert precision_recall(Manifold.of(real, 3), real) == (1.0, 1.0)
    assert precision_recall(Manifold.of(real, 3), real + 1000) == (0.0, 0.0)


def test_precision_recall_collapsed_fakes_keep_precision_and_lose_recall() -> None:
    real = vectors(200, 0)
    fake = real[:1] + vectors(100, 1, scale=1e-3)
    precision, recall = precision_recall(Manifold.of(real, 3), fake)
    assert precision == 1.0
    assert recall <= 1 / 200


def test_precision_recall_exact_copies_far_from_zero_count_as_inside() -> None:
    """Radius zero, and a large common offset: rounding must not put a copy outside of its own ball."""
    real = torch.cat([vectors(1, 0).expand(10, -1), vectors(10, 1)]) + 1e4
    precision, _ = precision_recall(Manifold.of(real, 3), real[:5])
    assert precision == 1.0


def test_precision_recall_too_few_vectors_is_refused() -> None:
    with pytest.raises(ValueError, match="neighbours"):
        Manifold.of(vectors(3, 0), 3)
    with pytest.raises(ValueError, match="neighbours"):
        precision_recall(Manifold.of(vectors(4, 0), 3), vectors(3, 1))


@pytest.mark.parametrize("neighbours", [1, 5])
@pytest.mark.parametrize("chunk_bytes", [1, 10**9])
def test_density_coverage_equals_the_definition(
    monkeypatch: pytest.MonkeyPatch, neighbours: int, chunk_bytes: int
) -> None:
    monkeypatch.setattr("ddo_engine.evaluation.precision_recall.CHUNK_BYTES", chunk_bytes)
    real, fake = vectors(150, 0).double(), vectors(90, 1, 0.8).double()
    between = torch.cdist(real, real, compute_mode="donot_use_mm_for_euclid_dist")
    radii = between.sort(dim=1).values[:, neighbours]
    inside = torch.cdist(real, fake, compute_mode="donot_use_mm_for_euclid_dist") <= radii[:, None]
    density, coverage = density_coverage(Manifold.of(real, neighbours), fake)
    assert density == pytest.approx(float(inside.sum()) / (neighbours * 90), rel=1e-12)
    assert coverage == pytest.approx(float(inside.any(dim=1).double().mean()), rel=1e-12)
    assert 0 < coverage < 1


def test_density_coverage_of_one_distribution_are_what_the_paper_expects() -> None:
    """Density 1; coverage 1 − Π (N − i) / (N + M − i) over i = 1 … k, here at N = M."""
    density, coverage = density_coverage(Manifold.of(vectors(1500, 0), 5), vectors(1500, 1))
    expected = 1 - math.prod((1500 - i) / (3000 - i) for i in range(1, 6))
    assert density == pytest.approx(1, abs=0.05)
    assert coverage == pytest.approx(expected, abs=0.02)


def test_density_an_outlier_among_the_real_moves_less_than_precision() -> None:
    real = torch.cat([vectors(200, 0), vectors(1, 2) + 100])
    between = vectors(100, 1, 0.1) + 50
    manifold = Manifold.of(real, 3)
    assert precision_recall(manifold, between)[0] == 1.0
    assert density_coverage(manifold, between) == (pytest.approx(1 / 3), pytest.approx(1 / 201))

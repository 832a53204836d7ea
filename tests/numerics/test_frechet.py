import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddo_engine.evaluation import Moments, frechet_distance

GOLDEN = Path(__file__).parents[1] / "golden" / "16_fid_is"
CASES = {case["case"]: case for case in json.loads(GOLDEN.with_suffix(".json").read_text())["fid"]}
FULL_RANK = ("full", "diag_scaled")
RANK_DEFICIENT = ("rankdef_samples", "rankdef_both_lowrank", "tiny_n3")


def golden_distance(case: str) -> float:
    with np.load(GOLDEN.with_suffix(".npz"), allow_pickle=False) as arrays:
        return frechet_distance(
            *(torch.from_numpy(arrays[f"{case}_{name}"]) for name in ("mu1", "sigma1", "mu2", "sigma2"))
        )


def spd(dim: int, seed: int) -> torch.Tensor:
    factor = torch.randn(dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T + torch.eye(dim, dtype=torch.float64)


def test_golden_cases_are_all_covered() -> None:
    assert set(CASES) == {*FULL_RANK, *RANK_DEFICIENT, "same"}


@pytest.mark.parametrize("case", FULL_RANK)
def test_frechet_full_rank_equals_the_official_number(case: str) -> None:
    distance = golden_distance(case)
    assert distance == pytest.approx(CASES[case]["fid_official"], rel=1e-9)
    assert distance == pytest.approx(CASES[case]["fid_eigen_float64"], rel=1e-9)


@pytest.mark.parametrize("case", RANK_DEFICIENT)
def test_frechet_rank_deficient_is_close_to_the_eigenvalue_number(case: str) -> None:
    distance = golden_distance(case)
    assert distance == pytest.approx(CASES[case]["fid_official"], rel=1e-4)
    assert distance == pytest.approx(CASES[case]["fid_eigen_float64"], rel=1e-7)


def test_frechet_same_statistics_is_zero_and_never_negative() -> None:
    assert 0 <= golden_distance("same") < 1e-9


def test_frechet_commuting_covariances_equals_the_closed_form() -> None:
    """Diagonal covariances: sum over axes of (m1 − m2)² + (s1 − s2)²."""
    mu1, mu2 = torch.tensor([0.0, 1.0, -2.0]).double(), torch.tensor([0.5, 1.0, 3.0]).double()
    s1, s2 = torch.tensor([1.0, 0.2, 3.0]).double(), torch.tensor([0.7, 5.0, 0.0]).double()
    expected = float(((mu1 - mu2) ** 2 + (s1 - s2) ** 2).sum())
    assert frechet_distance(mu1, torch.diag(s1**2), mu2, torch.diag(s2**2)) == pytest.approx(expected, rel=1e-12)


def test_frechet_low_rank_equals_the_closed_form_to_twelve_digits() -> None:
    """Two rank-one covariances u uᵀ, v vᵀ: |u|² + |v|² − 2 |u·v|. Square roots of eigenvalues lose this at 1e-8."""
    generator = torch.Generator().manual_seed(3)
    u, v = torch.randn(2, 40, dtype=torch.float64, generator=generator)
    expected = float(u @ u + v @ v - 2 * (u @ v).abs())
    zero = torch.zeros(40, dtype=torch.float64)
    assert frechet_distance(zero, torch.outer(u, u), zero, torch.outer(v, v)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 3, 9, 16])
def test_frechet_of_any_dimension_equals_the_singular_values(dim: int) -> None:
    """Full rank: the eigenvalues of a product in blocks, halves of unequal size among them."""
    cov1, cov2 = spd(dim, 1), spd(dim, 2)
    factors = [torch.linalg.cholesky(cov) for cov in (cov1, cov2)]
    overlap = torch.linalg.svdvals(factors[0].T @ factors[1]).sum()
    zero = torch.zeros(dim, dtype=torch.float64)
    expected = float(cov1.trace() + cov2.trace() - 2 * overlap)
    assert frechet_distance(zero, cov1, zero, cov2) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("ranks", [(12, 3), (3, 12), (5, 5), (5, 9), (0, 5), (0, 0)])
def test_frechet_of_any_ranks_equals_the_sum_of_singular_values(ranks: tuple[int, int]) -> None:
    """With C = X Xᵀ the overlap is the nuclear norm of X1ᵀ X2, whichever way it is taken."""
    generator = torch.Generator().manual_seed(8)
    first, second = (torch.randn(12, rank, dtype=torch.float64, generator=generator) for rank in ranks)
    overlap = torch.linalg.svdvals(first.T @ second).sum()
    expected = float(first.square().sum() + second.square().sum() - 2 * overlap)
    zero = torch.zeros(12, dtype=torch.float64)
    distance = frechet_distance(zero, first @ first.T, zero, second @ second.T)
    assert distance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("decades", [2, 6])
def test_frechet_of_ill_conditioned_covariances_keeps_its_digits(decades: int) -> None:
    """Turned alike, they commute: the closed form of diagonal ones holds."""
    turn = torch.linalg.qr(spd(16, 5)).Q
    s1, s2 = torch.logspace(0, -decades / 2, 16).double(), torch.logspace(-decades / 2, 0, 16).double()
    zero = torch.zeros(16, dtype=torch.float64)
    distance = frechet_distance(zero, turn * s1**2 @ turn.T, zero, turn * s2**2 @ turn.T)
    assert distance == pytest.approx(float(((s1 - s2) ** 2).sum()), rel=1e-12)


def test_frechet_is_symmetric_and_invariant_under_rotation() -> None:
    cov1, cov2 = spd(16, 1), spd(16, 2)
    mu1, mu2 = torch.randn(2, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    rotation = torch.linalg.qr(spd(16, 5)).Q
    distance = frechet_distance(mu1, cov1, mu2, cov2)
    assert frechet_distance(mu2, cov2, mu1, cov1) == pytest.approx(distance, rel=1e-12)
    rotated = frechet_distance(
        rotation @ mu1, rotation @ cov1 @ rotation.T, rotation @ mu2, rotation @ cov2 @ rotation.T
    )
    assert rotated == pytest.approx(distance, rel=1e-12)


def test_frechet_unfit_arguments_are_refused() -> None:
    mu, cov = torch.zeros(3), torch.eye(3)
    with pytest.raises(ValueError, match="dimension"):
        frechet_distance(mu, cov, torch.zeros(4), cov)
    with pytest.raises(ValueError, match="finite"):
        frechet_distance(mu, cov, mu, cov * float("nan"))


@pytest.mark.parametrize("sizes", [[100], [1, 99], [50, 1, 1, 48], [7] * 14 + [2]])
def test_moments_in_any_parts_equal_those_of_the_whole(sizes: list[int]) -> None:
    features = (
        torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    )  # far mean: cancellation shows
    moments = Moments.empty(8)
    for part in features.split(sizes):
        moments = moments.merge(Moments.of(part))
    assert moments.count == 100
    np.testing.assert_allclose(moments.mu_D.numpy(), features.double().mean(0).numpy(), rtol=1e-14)
    np.testing.assert_allclose(moments.cov_DD.numpy(), np.cov(features.double().numpy(), rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("case", ["rankdef_samples", "tiny_n3"])
def test_moments_golden_features_give_golden_moments(case: str) -> None:
    with np.load(GOLDEN.with_suffix(".npz"), allow_pickle=False) as arrays:
        moments = Moments.of(torch.from_numpy(arrays[f"{case}_features1"]))
        assert moments.count == CASES[case]["n"][0]
        np.testing.assert_allclose(moments.mu_D.numpy(), arrays[f"{case}_mu1"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(moments.cov_DD.numpy(), arrays[f"{case}_sigma1"], rtol=1e-6, atol=1e-9)


def test_moments_of_one_vector_have_no_covariance() -> None:
    with pytest.raises(ValueError, match="two vectors"):
        _ = Moments.of(torch.zeros(1, 3)).cov_DD

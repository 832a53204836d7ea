"""The toy: what vanishes at the optimum of maximum likelihood, what DDO makes of other references, and theorem 3.2."""

import math
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))  # examples are run from the repository's root, not installed

from ddo_engine.spec import DDOObjective  # noqa: E402
from examples.toy import bounds, figure, report  # noqa: E402
from examples.toy.density import GRID_N, ExponentialFamily, blurred, data_density  # noqa: E402
from examples.toy.training import Toy, expected_loss  # noqa: E402

DATA = data_density()
CELLS = report.GRID.cells


def toy(degree: int) -> Toy:
    return Toy(ExponentialFamily.of_polynomials(degree, DATA), DATA)


@pytest.fixture(scope="module", params=report.FAMILIES)
def case(request: pytest.FixtureRequest) -> report.Case:
    return report.Case.of(request.param)


def test_optimum_of_maximum_likelihood_has_the_statistics_of_the_data(case):
    statistics_KN = case.toy.family.statistics_KN
    means_K = statistics_KN @ case.toy.family.log_density(case.mle).exp()
    assert (means_K - statistics_KN @ DATA.exp()).abs().max() < 1e-12
    assert case.toy.measures(case.mle).kl > 0.05  # the family is too small


@pytest.mark.parametrize("objective", CELLS, ids=lambda objective: f"a{objective.alpha:g}_b{objective.beta:g}")
def test_gradient_at_the_optimum_of_maximum_likelihood_vanishes_for_every_alpha_and_beta(case, objective):
    assert case.toy.gradient_at_reference(case.mle, objective).abs().max() < 1e-10
    moved = list(case.toy.trial(case.dispersed, objective, num_steps=10))[-1][1]
    assert (moved - case.dispersed).abs().max() > 0.05


@pytest.mark.parametrize("objective", CELLS, ids=lambda objective: f"a{objective.alpha:g}_b{objective.beta:g}")
def test_gradient_at_any_reference_is_that_of_maximum_likelihood_times_half_of_beta(case, objective):
    theta_K = case.dispersed.clone().requires_grad_()
    (of_mle_K,) = torch.autograd.grad(case.toy.mle_loss(theta_K), theta_K)
    expected_K = objective.beta / 2 * of_mle_K
    assert expected_K.abs().max() > 1e-3
    assert (case.toy.gradient_at_reference(case.dispersed, objective) - expected_K).abs().max() < 1e-12


@pytest.mark.parametrize("objective", CELLS, ids=lambda objective: f"a{objective.alpha:g}_b{objective.beta:g}")
def test_curvature_at_the_optimum_is_the_closed_form(case, objective):
    alpha, beta = objective.alpha, objective.beta
    fisher_KK = case.toy.family.fisher_information(case.mle)
    data_KK = torch.eye(len(fisher_KK), dtype=torch.float64)  # the statistics are white under the data
    hessian_KK = beta / 2 * ((1 - alpha) * fisher_KK + beta / 2 * (data_KK + alpha * fisher_KK))
    least = float(torch.linalg.eigvalsh(hessian_KK)[0])
    assert case.toy.least_curvature(case.mle, objective) == pytest.approx(least, abs=1e-9)


def test_push_away_from_a_saddle_grows_and_one_away_from_a_minimum_does_not(case):
    direction_K = torch.ones_like(case.mle) / len(case.mle) ** 0.5
    distances = {}
    for alpha, beta in ((4, 0.5), (4, 2)):
        objective = DDOObjective(alpha=alpha, beta=beta)
        trial = case.toy.trial(case.mle + 0.01 * direction_K, objective, num_steps=300, reference_K=case.mle)
        distances[beta] = float((list(trial)[-1][1] - case.mle).norm())
    assert distances[0.5] > 0.3
    assert distances[2] < 0.002


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (4, 2), (0.5, 0.5)])
def test_round_to_its_end_multiplies_a_small_distance_by_the_closed_form(case, alpha, beta):
    objective = DDOObjective(alpha=alpha, beta=beta)
    distance_K = 1e-4 * torch.linspace(1, 2, len(case.mle), dtype=torch.float64)
    reference_K = case.mle + distance_K
    theta_K = reference_K
    for _ in range(5):  # Newton's method
        hessian_KK = torch.autograd.functional.hessian(
            lambda theta_K: case.toy.ddo_loss(theta_K, reference_K, objective), theta_K
        )
        variable_K = theta_K.clone().requires_grad_()
        (gradient_K,) = torch.autograd.grad(case.toy.ddo_loss(variable_K, reference_K, objective), variable_K)
        theta_K = theta_K - torch.linalg.solve(hessian_KK, gradient_K)
    # Along an eigenvector of the data's covariance (here 1) against the model's, c/i is the eigenvalue's inverse.
    eigenvalues_K, vectors_KK = torch.linalg.eigh(case.toy.family.fisher_information(case.mle))
    factors_K = 1 - 1 / (1 - alpha + beta / 2 * (1 / eigenvalues_K + alpha))
    expected_K = vectors_KK @ (factors_K * (vectors_KK.T @ distance_K))
    torch.testing.assert_close(theta_K - case.mle, expected_K, rtol=0, atol=0.02 * float(distance_K.norm()))


def test_rounds_from_an_over_dispersed_reference_draw_less_wrongly_than_maximum_likelihood(case):
    mle, dispersed, after = (case.toy.measures(theta_K) for theta_K in (case.mle, case.dispersed, case.best))
    assert after.reverse_kl < mle.reverse_kl < dispersed.reverse_kl / 1.5
    assert after.where_rare < mle.where_rare < dispersed.where_rare
    assert mle.kl < after.kl < dispersed.kl  # maximum likelihood is best at what it minimises
    assert case.winners[0].objective is not None
    assert case.winners[-1].objective is None


def test_blurred_is_a_density_with_the_noise_added(case):
    log_p_N = blurred(DATA, report.BLUR)
    variances = [
        float((log_N.exp() * GRID_N.square()).sum() - (log_N.exp() * GRID_N).sum() ** 2) for log_N in (DATA, log_p_N)
    ]
    assert float(log_p_N.exp().sum()) == pytest.approx(1)
    assert variances[1] - variances[0] == pytest.approx(report.BLUR**2, rel=0.05)  # the grid ends at 8


# Theorem 3.2


def bounded() -> tuple[torch.Tensor, torch.Tensor]:
    family = ExponentialFamily.of_polynomials(4, DATA)
    reference_N = family.log_density(family.closest_to(blurred(DATA, report.BLUR)))
    return bounds.with_background(DATA), bounds.with_background(reference_N)


def test_bounds_of_theorem_3_2_hold_for_random_densities_and_are_not_empty():
    found = bounds.check_bounds(*bounded(), num=400)
    assert 0.3 < found.kl < 1
    assert 0.05 < found.reverse_kl < 1
    assert 0.5 < found.excess < 1


def test_bounds_with_a_third_of_C1_and_a_tenth_of_C2_would_be_broken(monkeypatch):
    constants = bounds.Constants.of
    smaller = lambda *arguments: bounds.Constants(0, constants(*arguments).C1 / 3, constants(*arguments).C2 / 10)  # noqa: E731
    monkeypatch.setattr(bounds.Constants, "of", smaller)
    found = bounds.check_bounds(*bounded(), num=400)
    assert found.kl > 1
    assert found.reverse_kl > 1


def test_excess_of_the_loss_is_the_divergence_less_that_of_the_mixtures():
    log_p_data_N, log_p_ref_N = bounded()
    for log_q_N in bounds.random_densities(log_p_data_N, log_p_ref_N, 50, seed=1):
        found = bounds.Excess.of(log_q_N, log_p_data_N, log_p_ref_N)
        assert found.loss == pytest.approx(found.kl - 2 * found.of_mixtures, abs=1e-12)
        assert found.loss >= 0


def test_random_densities_are_densities_of_every_distance():
    log_p_data_N, log_p_ref_N = bounded()
    densities = bounds.random_densities(log_p_data_N, log_p_ref_N, 100, seed=2)
    assert all(float(log_q_N.logsumexp(0)) == pytest.approx(0, abs=1e-12) for log_q_N in densities)
    kl = [bounds.Excess.of(log_q_N, log_p_data_N, log_p_ref_N).kl for log_q_N in densities]
    assert min(kl) < 0.01
    assert max(kl) > 0.3


def test_loss_of_the_data_is_what_theorem_3_1_says():
    log_p_data_N, log_p_ref_N = bounded()
    mixture_N = torch.logaddexp(log_p_data_N, log_p_ref_N) - math.log(2)
    divergences = [float((log_N.exp() * (log_N - mixture_N)).sum()) for log_N in (log_p_data_N, log_p_ref_N)]
    loss = float(expected_loss(log_p_data_N, log_p_data_N, log_p_ref_N, bounds.PLAIN))
    assert loss == pytest.approx(2 * math.log(2) - sum(divergences), abs=1e-12)


# What is printed and drawn


def test_report_and_figure_are_made(case, tmp_path):
    assert len(list(report.at_the_optimum(case))) == 2 + len(CELLS)
    table = list(report.rounds(case))
    assert len(table) == 5 + len(case.winners)
    assert "nothing better" in table[-1]
    figure.draw([case], tmp_path / "toy.png")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_documentation_has_what_the_toy_prints(case):
    page = (ROOT / "docs" / "toy.md").read_text(encoding="utf-8")
    for line in report.rounds(case):
        assert line in page

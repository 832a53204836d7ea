"""Theorems 3.1 and 3.3 of arXiv:2503.01103 on a categorical model: float64, exact expectations, no sampling."""

import math

import pytest
import torch
from torch import Tensor

from ddo_engine.objective import ddo_loss


def distributions(num_outcomes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return p_data and p_ref, both positive everywhere and far from each other."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_outcomes, generator=generator, dtype=torch.float64)
    p_data_K, p_ref_K = logits.softmax(1)
    return p_data_K, p_ref_K


def expected_loss(log_q_K: Tensor, p_data_K: Tensor, p_ref_K: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return the loss's expectation over all outcomes.

    Row k carries the real term with weight p_data and, through its own alpha, the fake term with weight alpha p_ref.
    """
    ratio_K = log_q_K - p_ref_K.log()
    alpha_K = alpha * p_ref_K / p_data_K
    return (p_data_K * ddo_loss(ratio_K, ratio_K, alpha=alpha_K, beta=beta)).sum()


def minimise(p_data_K: Tensor, p_ref_K: Tensor, *, alpha: float, beta: float) -> tuple[Tensor, float]:
    """Train a categorical model from the reference; return its probabilities and the loss."""
    logits_K = p_ref_K.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits_K], max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = expected_loss(logits_K.log_softmax(0), p_data_K, p_ref_K, alpha=alpha, beta=beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    return logits_K.detach().softmax(0), closure().item()


def tilted(p_data_K: Tensor, p_ref_K: Tensor, beta: float) -> tuple[Tensor, float]:
    """Return p_ref^(1 − 1/beta) p_data^(1/beta), normalised, and the alpha whose optimum it is."""
    weights_K = p_ref_K ** (1 - 1 / beta) * p_data_K ** (1 / beta)
    return weights_K / weights_K.sum(), float(weights_K.sum() ** beta)


@pytest.mark.parametrize(("num_outcomes", "seed"), [(10, 0), (10, 1), (50, 2)])
def test_theorem_3_1_optimum_is_the_data_distribution(num_outcomes: int, seed: int) -> None:
    p_data_K, p_ref_K = distributions(num_outcomes, seed)
    q_K, loss = minimise(p_data_K, p_ref_K, alpha=1.0, beta=1.0)
    assert (p_ref_K - p_data_K).abs().max() > 1e-2
    assert (q_K - p_data_K).abs().max() < 1e-7

    mixture_K = (p_data_K + p_ref_K) / 2
    divergence = sum((p_K * (p_K / mixture_K).log()).sum() for p_K in (p_data_K, p_ref_K)) / 2
    assert loss == pytest.approx(2 * math.log(2) - 2 * float(divergence), abs=1e-10)


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.8, 2.0])
@pytest.mark.parametrize("num_outcomes", [10, 50])
def test_theorem_3_3_optimum_is_the_tilted_distribution(beta: float, num_outcomes: int) -> None:
    p_data_K, p_ref_K = distributions(num_outcomes, seed=3)
    predicted_K, alpha = tilted(p_data_K, p_ref_K, beta)
    q_K, _ = minimise(p_data_K, p_ref_K, alpha=alpha, beta=beta)
    assert (q_K - predicted_K).abs().max() < 1e-6
    assert (q_K - p_data_K).abs().max() > 1e-2


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.8])
def test_theorem_3_3_below_one_overshoots_the_data(beta: float) -> None:
    p_data_K, p_ref_K = distributions(10, seed=3)
    _, alpha = tilted(p_data_K, p_ref_K, beta)
    assert alpha > 1
    q_K, _ = minimise(p_data_K, p_ref_K, alpha=alpha, beta=beta)
    moved, needed = q_K.log() - p_ref_K.log(), p_data_K.log() - p_ref_K.log()
    slope = torch.linalg.lstsq((needed - needed.mean())[:, None], (moved - moved.mean())[:, None]).solution.item()
    assert slope == pytest.approx(1 / beta, rel=1e-4)


@pytest.mark.parametrize("beta", [0.25, 0.5])
def test_theorem_3_3_with_another_alpha_has_another_optimum(beta: float) -> None:
    p_data_K, p_ref_K = distributions(10, seed=3)
    predicted_K, alpha = tilted(p_data_K, p_ref_K, beta)
    q_K, _ = minimise(p_data_K, p_ref_K, alpha=1.0, beta=beta)
    assert abs(alpha - 1) > 0.1
    assert (q_K - predicted_K).abs().max() > 1e-2


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_loss_at_the_reference_is_one_plus_alpha_times_ln_2(alpha: float) -> None:
    p_data_K, p_ref_K = distributions(10, seed=4)
    loss = expected_loss(p_ref_K.log(), p_data_K, p_ref_K, alpha=alpha, beta=0.3)
    assert loss.item() == pytest.approx((1 + alpha) * math.log(2), abs=1e-12)

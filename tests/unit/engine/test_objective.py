"""Identities of the DDO loss."""

import math

import pytest
import torch

from ddo_engine.objective import ddo_loss, ratio_diagnostics


@pytest.mark.parametrize("alpha", [0.0, 0.5, 6.0])
@pytest.mark.parametrize("beta", [0.01, 1.0, 20.0])
def test_loss_of_equal_models_is_one_plus_alpha_times_ln_2(alpha, beta):
    zero_B = torch.zeros(5, dtype=torch.float64)
    loss_B = ddo_loss(zero_B, zero_B, alpha=alpha, beta=beta)
    assert loss_B.shape == (5,)
    torch.testing.assert_close(loss_B, torch.full_like(loss_B, (1 + alpha) * math.log(2)), rtol=1e-15, atol=0)


def test_loss_with_alpha_per_row_weighs_each_row_by_its_own():
    real_B, fake_B = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.5, -0.5])
    alpha_B = torch.tensor([0.0, 1.0, 4.0])
    loss_B = ddo_loss(real_B, fake_B, alpha=alpha_B, beta=0.7)
    for row, alpha in enumerate(alpha_B.tolist()):
        alone = ddo_loss(real_B[row : row + 1], fake_B[row : row + 1], alpha=alpha, beta=0.7)
        torch.testing.assert_close(loss_B[row : row + 1], alone, rtol=0, atol=0)


def test_loss_of_huge_ratios_stays_finite_with_bounded_gradient():
    real_B = torch.tensor([-1e4, 1e4], requires_grad=True)
    fake_B = torch.tensor([1e4, -1e4], requires_grad=True)
    loss_B = ddo_loss(real_B, fake_B, alpha=2.0, beta=1.0)
    torch.testing.assert_close(loss_B.detach(), torch.tensor([3e4, 0.0]))
    loss_B.sum().backward()
    assert real_B.grad is not None
    assert fake_B.grad is not None
    torch.testing.assert_close(real_B.grad, torch.tensor([-1.0, 0.0]))
    torch.testing.assert_close(fake_B.grad, torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_loss_without_beta_is_the_limit_of_the_loss_per_beta(alpha):
    real_B, fake_B = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([1.0, 0.5, -0.5]).double()
    limit_B = ddo_loss(real_B, fake_B, alpha=alpha, beta=None)
    for beta in (1e-3, 1e-5):
        per_beta_B = (ddo_loss(real_B, fake_B, alpha=alpha, beta=beta) - (1 + alpha) * math.log(2)) / beta
        # what is left out is beta / 8 (real² + alpha fake²)
        torch.testing.assert_close(per_beta_B, limit_B, rtol=0, atol=beta * (1 + alpha))


def test_diagnostics_of_known_ratios_are_their_moments_and_accuracy():
    real_B, fake_B = torch.tensor([1.0, 7.0, -1.0, 0.0]), torch.tensor([-2.0, -8.0, 1.0, -6.5])
    summary = ratio_diagnostics(real_B, fake_B, torch.tensor([10.0, 20.0, 30.0, 40.0]), beta=0.5)
    assert summary.ratio_real_mean.item() == pytest.approx(1.75)
    assert summary.ratio_real_std.item() == pytest.approx(math.sqrt(51 / 4 - 1.75**2))
    assert summary.ratio_fake_mean.item() == pytest.approx(-3.875)
    assert summary.ratio_fake_std.item() == pytest.approx(math.sqrt(111.25 / 4 - 3.875**2))
    assert summary.discriminator_accuracy.item() == pytest.approx((2.5 / 4 + 3 / 4) / 2)
    expected = sum(math.log1p(math.exp(-0.5 * ratio)) for ratio in (1.0, 7.0, -1.0, 0.0)) / 4
    assert summary.loss_real.item() == pytest.approx(expected)
    assert summary.saturated_share.item() == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert summary.reference_loss.item() == 25.0
    assert summary.target_loss.item() == 25.0 - 1.75


def test_diagnostics_of_equal_models_say_that_nothing_is_told_apart():
    summary = ratio_diagnostics(torch.zeros(3), torch.zeros(3), torch.ones(3), beta=1.0)
    assert summary.discriminator_accuracy.item() == 0.5
    assert summary.ratio_fake_std.item() == 0.0


def test_diagnostics_of_a_single_row_are_finite():
    summary = ratio_diagnostics(torch.ones(1), torch.ones(1), torch.ones(1), beta=1.0)
    assert summary.ratio_real_std.item() == 0.0

"""The DDO loss against independently computed values and gradients (golden 17), in float64.

The end-to-end part of golden 17, through a network, is in ``test_edm_likelihood.py``.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from ddo_engine.objective import ddo_loss, ratio_diagnostics
from tests.numerics.golden import arrays, description, tensor

NAME = "17_ddo_loss"
CASES = {f"a{case['alpha']:g}_b{case['beta']}": case for case in description(NAME)["diffusion"]}
AUTOREGRESSIVE = description(NAME)["autoregressive"]


def squared_error_ratio(side: str) -> tuple[Tensor, Tensor]:
    """Return the free-form output of the target, as a leaf, and eq. 14's estimate made of it."""
    output = tensor(NAME, f"F_theta_{side}").requires_grad_()
    target, reference = tensor(NAME, f"F_target_{side}"), tensor(NAME, f"F_ref_{side}")
    ratio_B = -((output - target).square() - (reference - target).square()).flatten(1).sum(1)
    return output, ratio_B


@pytest.mark.parametrize("name", CASES)
def test_diffusion_loss_of_every_setting_equals_golden(name: str) -> None:
    case = CASES[name]
    real_output, real_ratio_B = squared_error_ratio("data")
    fake_output, fake_ratio_B = squared_error_ratio("ref")
    np.testing.assert_allclose(real_ratio_B.detach(), arrays(NAME)["delta_data"], rtol=1e-9)
    np.testing.assert_allclose(fake_ratio_B.detach(), arrays(NAME)["delta_ref"], rtol=1e-9)

    loss_B = ddo_loss(real_ratio_B, fake_ratio_B, alpha=case["alpha"], beta=case["beta"])
    expected_B = arrays(NAME)[f"loss_data_{name}"] + case["alpha"] * arrays(NAME)[f"loss_ref_unweighted_{name}"]
    np.testing.assert_allclose(loss_B.detach(), expected_B, rtol=1e-9)
    loss = loss_B.mean()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)

    loss.backward()
    assert real_output.grad is not None
    assert fake_output.grad is not None
    assert real_output.grad.norm().item() == pytest.approx(case["grad_norm_theta_data"], rel=1e-9)
    assert fake_output.grad.norm().item() == pytest.approx(case["grad_norm_theta_ref"], rel=1e-9)
    if f"grad_theta_data_{name}" in arrays(NAME):
        np.testing.assert_allclose(real_output.grad, arrays(NAME)[f"grad_theta_data_{name}"], rtol=1e-9)
        np.testing.assert_allclose(fake_output.grad, arrays(NAME)[f"grad_theta_ref_{name}"], rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_diagnostics_of_every_setting_equal_golden(name: str) -> None:
    case = CASES[name]
    real_ratio_B, fake_ratio_B = tensor(NAME, "delta_data"), tensor(NAME, "delta_ref")
    summary = ratio_diagnostics(real_ratio_B, fake_ratio_B, torch.zeros(()), beta=case["beta"])
    assert summary.loss_real.item() == pytest.approx(case["loss_data_mean"], rel=1e-9)
    weighted = case["alpha"] * summary.loss_fake.item()
    assert weighted == pytest.approx(case["alpha_weighted_loss_ref_mean"], rel=1e-9)
    np.testing.assert_allclose((case["beta"] * real_ratio_B).sigmoid(), case["discriminator_data"], rtol=1e-9)
    np.testing.assert_allclose((case["beta"] * fake_ratio_B).sigmoid(), case["discriminator_ref"], rtol=1e-9)


def token_ratio(side: str) -> Tensor:
    """Return eq. 1's log-likelihood ratio, summed over tokens."""
    tokens_BL1 = tensor(NAME, f"ar_tokens_{side}")[..., None]
    target, reference = (tensor(NAME, f"ar_logits_{model}_{side}").log_softmax(-1) for model in ("theta", "ref"))
    return (target - reference).gather(-1, tokens_BL1).flatten(1).sum(1)


@pytest.mark.parametrize("case", AUTOREGRESSIVE, ids=lambda case: f"a{case['alpha']}_b{case['beta']}")
def test_autoregressive_loss_of_every_setting_equals_golden(case: dict) -> None:
    real_ratio_B, fake_ratio_B = token_ratio("data"), token_ratio("ref")
    np.testing.assert_allclose(real_ratio_B, arrays(NAME)["ar_logratio_data"], rtol=1e-9)
    np.testing.assert_allclose(fake_ratio_B, arrays(NAME)["ar_logratio_ref"], rtol=1e-9)

    loss_B = ddo_loss(real_ratio_B, fake_ratio_B, alpha=case["alpha"], beta=case["beta"])
    expected_B = np.array(case["loss_data"]) + case["alpha"] * np.array(case["loss_ref_unweighted"])
    np.testing.assert_allclose(loss_B, expected_B, rtol=1e-9)
    assert loss_B.mean().item() == pytest.approx(case["loss"], rel=1e-9)

    dropped_B = tensor(NAME, "ar_label_dropped")
    alpha_B = torch.where(dropped_B, 0.0, float(case["alpha"])).double()
    loss = ddo_loss(real_ratio_B, fake_ratio_B, alpha=alpha_B, beta=case["beta"]).mean()
    assert loss.item() == pytest.approx(case["loss_with_alpha0_on_dropped"], rel=1e-9)

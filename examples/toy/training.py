"""DDO with exact expectations: its loss, its derivatives at the reference, trials and rounds."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddo_engine.objective import loss_terms
from ddo_engine.spec import DDOObjective, Grid
from examples.toy.density import ExponentialFamily, Measures


def expected_loss(log_q_N: Tensor, log_p_data_N: Tensor, log_p_ref_N: Tensor, objective: DDOObjective) -> Tensor:
    """Return the DDO loss of a density against a reference, 0-dim.

    Source: arXiv:2503.01103, eq. 13.
    """
    assert not isinstance(objective.beta, str)
    ratio_N = log_q_N - log_p_ref_N
    real_N, fake_N = loss_terms(ratio_N, ratio_N, beta=objective.beta)
    return (log_p_data_N.exp() * real_N).sum() + objective.alpha * (log_p_ref_N.exp() * fake_N).sum()


@dataclass(frozen=True)
class Toy:
    """A family that is too small for its data.

    Attributes:
        family: Of target and reference.
        log_p_data_N: The data.
    """

    family: ExponentialFamily
    log_p_data_N: Tensor

    @property
    def mle_optimum(self) -> Tensor:
        """Where maximum likelihood ends. Shape (K,)."""
        return self.family.closest_to(self.log_p_data_N)

    def measures(self, theta_K: Tensor) -> Measures:
        """Compare a model with the data."""
        return Measures.of(self.family.log_density(theta_K), self.log_p_data_N)

    def ddo_loss(self, theta_K: Tensor, reference_K: Tensor, objective: DDOObjective) -> Tensor:
        """Return the loss of ``theta`` against a reference of the same family."""
        log_densities = (self.family.log_density(parameters) for parameters in (theta_K, reference_K))
        log_q_N, log_p_ref_N = log_densities
        return expected_loss(log_q_N, self.log_p_data_N, log_p_ref_N, objective)

    def mle_loss(self, theta_K: Tensor) -> Tensor:
        """Return the negative log-likelihood of the data, 0-dim."""
        return -(self.log_p_data_N.exp() * self.family.log_density(theta_K)).sum()

    def gradient_at_reference(self, reference_K: Tensor, objective: DDOObjective) -> Tensor:
        """Return the gradient with which a trial starts: half of beta times that of maximum likelihood. Shape (K,)."""
        theta_K = reference_K.clone().requires_grad_()
        (gradient_K,) = torch.autograd.grad(self.ddo_loss(theta_K, reference_K, objective), theta_K)
        return gradient_K

    def least_curvature(self, reference_K: Tensor, objective: DDOObjective) -> float:
        """Return the Hessian's lowest eigenvalue at the reference: below 0, a trial cannot end there."""
        hessian_KK = torch.autograd.functional.hessian(
            lambda theta_K: self.ddo_loss(theta_K, reference_K, objective), reference_K
        )
        return float(torch.linalg.eigvalsh(hessian_KK)[0])

    def trial(
        self, start_K: Tensor, objective: DDOObjective, *, num_steps: int, reference_K: Tensor | None = None
    ) -> Iterable[tuple[int, Tensor]]:
        """Descend the loss by Adam from ``start``, yielding (step, theta) every ten steps.

        Args:
            start_K: Initial parameters.
            objective: alpha and beta.
            num_steps: Of a hundredth each.
            reference_K: Another reference than the start.
        """
        reference_K = start_K if reference_K is None else reference_K
        theta_K = start_K.clone().requires_grad_()
        optimizer = torch.optim.Adam([theta_K], lr=0.01)
        for step in range(1, num_steps + 1):
            optimizer.zero_grad()
            torch.autograd.backward(self.ddo_loss(theta_K, reference_K, objective))
            optimizer.step()
            if step % 10 == 0:
                yield step, theta_K.detach().clone()


@dataclass(frozen=True)
class Winner:
    """The best point of a round.

    Attributes:
        theta_K: Its parameters.
        measures: Of it.
        objective: Of its trial; None where nothing was better than the reference.
        step: Of its trial.
    """

    theta_K: Tensor
    measures: Measures
    objective: DDOObjective | None = None
    step: int = 0


def play_round(toy: Toy, reference_K: Tensor, grid: Grid, *, num_steps: int) -> Winner:
    """Run every trial of the grid; return the point of lowest reverse divergence over trials and steps.

    The reverse divergence stands in for FID: it looks at what the model draws.
    """
    best = Winner(reference_K, toy.measures(reference_K))
    for objective in grid.cells:
        for step, theta_K in toy.trial(reference_K, objective, num_steps=num_steps):
            measures = toy.measures(theta_K)
            if measures.reverse_kl < best.measures.reverse_kl:
                best = Winner(theta_K, measures, objective, step)
    return best

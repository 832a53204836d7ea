"""What one training step minimises, as a function of the target model, the step number and the rows of its batch."""

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor, nn

from ddo_engine.batches import BatchSource
from ddo_engine.families.protocol import Family
from ddo_engine.objective import RatioDiagnostics, ddo_loss, ratio_diagnostics
from ddo_engine.randomness import generator_for
from ddo_engine.spec import DDOObjective, TrainingSettings


class TrainingLoss(Protocol):
    """The loss of one step, row by row, so that a batch may be cut over time (accumulation) and over processes."""

    @property
    def beta(self) -> float | None:
        """Scale of the log-likelihood ratio, 1/nats; None where there is none, or it is to be found."""

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Names of what :meth:`summary` returns, in order."""

    def __call__(self, target_model: nn.Module, step: int, rows: range) -> Tensor:
        """Return what these rows of the batch of ``step`` (0-based) give.

        Returns:
            Shape (rows, K), K whatever the loss likes. Column 0 is what the step minimises the mean of, and carries
            gradients; the others are for the diagnostics.
        """

    def summary(self, values_BK: Tensor) -> tuple[Tensor, ...]:
        """Return the diagnostics of a whole batch, all 0-dim, from what its rows gave."""


@dataclass(frozen=True)
class DDOTrainingLoss:
    """The DDO loss against an offline reference set.

    Attributes:
        family: Of both models.
        reference_model: Frozen; it generated the fakes. No optimizer, average or state file knows it.
        real: Dataset images.
        fake: Images of the reference set, loaded as the dataset's are.
        objective: alpha and beta. A beta yet to be found stands for its limit of 0, which is what the probe trains.
        training: Noise distribution.
        seed: The run's seed.
    """

    family: Family
    reference_model: nn.Module
    real: BatchSource
    fake: BatchSource
    objective: DDOObjective
    training: TrainingSettings
    seed: int

    @property
    def beta(self) -> float | None:
        """The scale of the ratio; None while it is to be found."""
        return None if self.objective.beta == "auto" else self.objective.beta

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Names of the fields of :class:`ddo_engine.objective.RatioDiagnostics`."""
        return tuple(entry.name for entry in fields(RatioDiagnostics))

    def __call__(self, target_model: nn.Module, step: int, rows: range) -> Tensor:
        """Return eq. 13 (eq. 43 for diffusion), the ratios on real and on fake images, and the reference's loss.

        Source: arXiv:2503.01103.
        """
        real_ratio_B, fake_ratio_B, reference_loss_B = self.family.log_likelihood_ratios(
            target_model,
            self.reference_model,
            self.real.batch(step, rows),
            self.fake.batch(step, rows),
            self.training,
            generator_for(self.real.device, self.seed, "noise", step),
        )
        loss_B = ddo_loss(real_ratio_B, fake_ratio_B, alpha=self.objective.alpha, beta=self.beta)
        return torch.stack([loss_B, real_ratio_B.detach(), fake_ratio_B.detach(), reference_loss_B], dim=1)

    def summary(self, values_BK: Tensor) -> tuple[Tensor, ...]:
        """Return :class:`ddo_engine.objective.RatioDiagnostics`, field by field."""
        _, real_ratio_B, fake_ratio_B, reference_loss_B = values_BK.unbind(1)
        summary = ratio_diagnostics(real_ratio_B, fake_ratio_B, reference_loss_B, beta=self.beta)
        return tuple(getattr(summary, name) for name in self.diagnostics)


@dataclass(frozen=True)
class MLETrainingLoss:
    """The family's own pretraining loss.

    Attributes:
        family: Of the model.
        real: Dataset images.
        training: Noise distribution.
        seed: The run's seed.
    """

    family: Family
    real: BatchSource
    training: TrainingSettings
    seed: int
    diagnostics: tuple[str, ...] = ()
    beta: None = None

    def __call__(self, target_model: nn.Module, step: int, rows: range) -> Tensor:
        """Return the loss of these rows."""
        generator = generator_for(self.real.device, self.seed, "noise", step)
        batch = self.real.batch(step, rows)
        return self.family.pretraining_loss(target_model, batch, self.training, generator)[:, None]

    def summary(self, values_BK: Tensor) -> tuple[Tensor, ...]:
        """Return nothing: the loss says it all."""
        return ()

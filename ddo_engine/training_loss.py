"""What one training step minimises, as a function of the target model and the step number alone."""

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
    """The loss of one step."""

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """Names of the numbers that come with the loss, in order."""

    def __call__(self, target_model: nn.Module, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean loss of the batch of ``step`` (0-based), and the diagnostics, all 0-dim."""


@dataclass(frozen=True)
class DDOTrainingLoss:
    """The DDO loss against an offline reference set.

    Attributes:
        family: Of both models.
        reference_model: Frozen; it generated the fakes. No optimizer, average or state file knows it.
        real: Dataset images.
        fake: Images of the reference set, loaded as the dataset's are.
        objective: alpha and beta.
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
    def diagnostics(self) -> tuple[str, ...]:
        """Names of the fields of :class:`ddo_engine.objective.RatioDiagnostics`."""
        return tuple(entry.name for entry in fields(RatioDiagnostics))

    def __call__(self, target_model: nn.Module, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean of eq. 13 (eq. 43 for diffusion) over the batch, and its diagnostics.

        Source: arXiv:2503.01103.
        """
        real_ratio_B, fake_ratio_B = self.family.log_likelihood_ratios(
            target_model,
            self.reference_model,
            self.real.batch(step),
            self.fake.batch(step),
            self.training,
            generator_for(self.real.device, self.seed, "noise", step),
        )
        loss = ddo_loss(real_ratio_B, fake_ratio_B, alpha=self.objective.alpha, beta=self.objective.beta).mean()
        summary = ratio_diagnostics(real_ratio_B, fake_ratio_B, beta=self.objective.beta)
        return loss, tuple(getattr(summary, name) for name in self.diagnostics)


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

    def __call__(self, target_model: nn.Module, step: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the mean of the loss over the batch."""
        generator = generator_for(self.real.device, self.seed, "noise", step)
        loss_B = self.family.pretraining_loss(target_model, self.real.batch(step), self.training, generator)
        return torch.mean(loss_B), ()

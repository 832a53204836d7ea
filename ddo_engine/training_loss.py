"""What one training step minimises, as a function of the target model, the step number and the rows of its batch."""

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ddo_engine.batches import BatchSource
from ddo_engine.families.protocol import BatchPart, Family
from ddo_engine.objective import RatioDiagnostics, ddo_loss, mle_term, ratio_diagnostics
from ddo_engine.online import FakeSource
from ddo_engine.randomness import generator_for
from ddo_engine.spec import CCAObjective, DDOObjective, TrainingSettings


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
    """The DDO loss against samples of the reference, or that of condition contrastive alignment, which has its form.

    Attributes:
        family: Of both models.
        reference_model: Frozen; the fakes are its samples. No optimizer, average or state file knows it.
        real: Dataset images.
        fake: Its samples; or, for CCA, what stands in their place.
        objective: alpha and beta. A beta yet to be found stands for its limit of 0, which is what the probe trains.
        training: Noise distribution, label dropout and the loss's scale, with the family's defaults filled in.
        seed: The run's seed.
    """

    family: Family
    reference_model: nn.Module
    real: BatchSource
    fake: FakeSource
    objective: DDOObjective | CCAObjective
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

        The last column is 1 where the fake counts, 0 where it has lost its label.

        Source: arXiv:2503.01103.
        """
        real = self.real.batch(step, rows)
        real = replace(real, dropped_B=self._dropped(step, real.rows))
        fake = replace(self.fake.beside(real, step), dropped_B=real.dropped_B)
        real_ratio_B, fake_ratio_B, reference_loss_B = self.family.log_likelihood_ratios(
            target_model,
            self.reference_model,
            real,
            fake,
            self.training,
            generator_for(self.real.device, self.seed, "noise", step),
        )
        loss_B = self._loss(real_ratio_B, fake_ratio_B, real.dropped_B)
        counts_B = torch.ones_like(loss_B) if real.dropped_B is None else (~real.dropped_B).to(loss_B.dtype)
        return torch.stack([loss_B, real_ratio_B.detach(), fake_ratio_B.detach(), reference_loss_B, counts_B], dim=1)

    def _dropped(self, step: int, part: BatchPart) -> Tensor | None:
        """Return which rows lose their label, drawn for the whole batch; None where none can."""
        rate, device = self.training.label_dropout, self.real.device
        if not rate:
            return None
        generator = generator_for(device, self.seed, "label dropout", step)
        return part.rows_of(torch.rand(part.batch_size, generator=generator, device=device) < rate)

    def _loss(self, real_ratio_B: Tensor, fake_ratio_B: Tensor, dropped_B: Tensor | None) -> Tensor:
        """Return the loss of each row: alpha is 0 where the label is dropped (arXiv:2503.01103, section 5.3)."""
        alpha = self.objective.alpha
        if dropped_B is None:
            loss_B = ddo_loss(real_ratio_B, fake_ratio_B, alpha=alpha, beta=self.beta)
        else:
            loss_B = ddo_loss(real_ratio_B, fake_ratio_B, alpha=alpha * (~dropped_B), beta=self.beta)
            if self.training.unconditional_rows == "mle":
                loss_B = torch.where(dropped_B, mle_term(real_ratio_B, beta=self.beta), loss_B)
        return loss_B / max(alpha, 1.0) if self.training.normalise_by_alpha else loss_B

    def summary(self, values_BK: Tensor) -> tuple[Tensor, ...]:
        """Return :class:`ddo_engine.objective.RatioDiagnostics`, field by field; of fakes, only those that count.

        A batch in which none does is as if their ratio were 0.
        """
        _, real_ratio_B, fake_ratio_B, reference_loss_B, counts_B = values_BK.unbind(1)
        if self.training.label_dropout:
            fake_ratio_B = fake_ratio_B[counts_B > 0] if bool(counts_B.any()) else fake_ratio_B[:1]
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

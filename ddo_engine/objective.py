"""The DDO loss, for every family: it knows log-likelihood ratios, alpha and beta, nothing else."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def ddo_loss(real_ratio_B: Tensor, fake_ratio_B: Tensor, *, alpha: float | Tensor, beta: float) -> Tensor:
    """Discriminator loss whose logit is the scaled log-likelihood ratio.

    Args:
        real_ratio_B: log p_theta / p_ref on dataset images, nats. Shape (B,), float32 or wider.
        fake_ratio_B: The same on samples of the reference model. Shape (B,).
        alpha: Weight of the fake term, >= 0. A tensor of shape (B,) weighs rows one by one.
        beta: Scale of the ratio, 1/nats, > 0.

    Returns:
        Loss per row. Shape (B,).

    Source: arXiv:2503.01103, eq. 13 (eq. 43 when the ratios are one-sample ELBO estimates).
    """
    return -logsigmoid(beta * real_ratio_B) - alpha * logsigmoid(-beta * fake_ratio_B)


@dataclass(frozen=True)
class RatioDiagnostics:
    """What the ratios of one step tell about the training, as 0-dim tensors (no device synchronisation).

    Attributes:
        loss_real: Mean of the data term. Rising is normal; beyond about twice ln 2 it is an alarm.
        loss_fake: Mean of the fake term, not weighted by alpha.
        ratio_real_mean: Mean log-likelihood ratio on dataset images, nats.
        ratio_real_std: Its standard deviation (of the batch as a population).
        ratio_fake_mean: Mean log-likelihood ratio on reference samples, nats.
        ratio_fake_std: Its standard deviation.
        discriminator_accuracy: Share of images, real and fake, that the sign of the ratio tells apart;
            a ratio of exactly 0 counts as half.
    """

    loss_real: Tensor
    loss_fake: Tensor
    ratio_real_mean: Tensor
    ratio_real_std: Tensor
    ratio_fake_mean: Tensor
    ratio_fake_std: Tensor
    discriminator_accuracy: Tensor


@torch.no_grad()
def ratio_diagnostics(real_ratio_B: Tensor, fake_ratio_B: Tensor, *, beta: float) -> RatioDiagnostics:
    """Summarise the ratios of one step.

    Args:
        real_ratio_B: log p_theta / p_ref on dataset images, nats. Shape (B,).
        fake_ratio_B: The same on samples of the reference model. Shape (B,).
        beta: Scale of the ratio, 1/nats.

    Source: arXiv:2503.01103, eq. 8: the implicit discriminator is sigmoid(ratio).
    """
    correct_real = (real_ratio_B.sign() + 1).mean() / 2
    correct_fake = (1 - fake_ratio_B.sign()).mean() / 2
    return RatioDiagnostics(
        loss_real=-logsigmoid(beta * real_ratio_B).mean(),
        loss_fake=-logsigmoid(-beta * fake_ratio_B).mean(),
        ratio_real_mean=real_ratio_B.mean(),
        ratio_real_std=real_ratio_B.std(correction=0),
        ratio_fake_mean=fake_ratio_B.mean(),
        ratio_fake_std=fake_ratio_B.std(correction=0),
        discriminator_accuracy=(correct_real + correct_fake) / 2,
    )

"""The DDO loss, for every family: it knows log-likelihood ratios, alpha and beta, nothing else."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

# Beyond it a row's sigmoid gives less than 5 % of its slope's bound on one side, and nearly all of it on the other.
SATURATED_LOGIT = 3.0


def ddo_loss(real_ratio_B: Tensor, fake_ratio_B: Tensor, *, alpha: float | Tensor, beta: float | None) -> Tensor:
    """Discriminator loss whose logit is the scaled log-likelihood ratio.

    Args:
        real_ratio_B: log p_theta / p_ref on dataset images, nats. Shape (B,), float32 or wider.
        fake_ratio_B: The same on samples of the reference model. Shape (B,).
        alpha: Weight of the fake term, >= 0. A tensor of shape (B,) weighs rows one by one.
        beta: Scale of the ratio, 1/nats, > 0. None: the limit of small beta, see :func:`loss_terms`.

    Returns:
        Loss per row. Shape (B,).

    Source: arXiv:2503.01103, eq. 13 (eq. 43 when the ratios are one-sample ELBO estimates).
    """
    real_B, fake_B = loss_terms(real_ratio_B, fake_ratio_B, beta=beta)
    return real_B + alpha * fake_B


def loss_terms(real_ratio_B: Tensor, fake_ratio_B: Tensor, *, beta: float | None) -> tuple[Tensor, Tensor]:
    """Return the data term and the fake term of :func:`ddo_loss`, the latter not weighed by alpha. Each of shape (B,).

    With ``beta=None``, both less their constant ln 2, divided by beta, for beta → 0: half the ratio, with the sign that
    the sigmoid gives it. Adam takes no notice of the factor beta, so this is how a trial trains as long as no ratio is
    so large that its sigmoid brakes.

    Args:
        real_ratio_B: log p_theta / p_ref on dataset images, nats. Shape (B,).
        fake_ratio_B: The same on samples of the reference model. Shape (B,).
        beta: Scale of the ratio, 1/nats, > 0; or None.

    Source: arXiv:2503.01103, eq. 13.
    """
    if beta is None:
        return -real_ratio_B / 2, fake_ratio_B / 2
    return -logsigmoid(beta * real_ratio_B), -logsigmoid(-beta * fake_ratio_B)


def mle_term(real_ratio_B: Tensor, *, beta: float | None) -> Tensor:
    """Return the tangent of the data term at ratio 0, ``ln 2 - beta ratio / 2``: maximum likelihood on its scale.

    Its gradient is beta / 2 times that of the negative log-likelihood, wherever the ratio goes: it starts as the data
    term does, and no sigmoid brakes it.

    Args:
        real_ratio_B: log p_theta / p_ref on dataset images, nats. Shape (B,).
        beta: Scale of the ratio, 1/nats; None: as in :func:`loss_terms`.
    """
    return -real_ratio_B / 2 if beta is None else math.log(2) - beta / 2 * real_ratio_B


@dataclass(frozen=True)
class RatioDiagnostics:
    """What the ratios of one step tell about the training, as 0-dim tensors (no device synchronisation).

    Attributes:
        loss_real: Mean of the data term. With alpha > 1 its rise is normal: where data and fakes cannot be told apart,
            the loss is least at ratios of −ln(alpha) / beta.
        loss_fake: Mean of the fake term, not weighted by alpha.
        ratio_real_mean: Mean log-likelihood ratio on dataset images, nats.
        ratio_real_std: Its standard deviation (of the batch as a population).
        ratio_fake_mean: Mean log-likelihood ratio on reference samples, nats.
        ratio_fake_std: Its standard deviation.
        discriminator_accuracy: Share of images, real and fake, that the sign of the ratio tells apart;
            a ratio of exactly 0 counts as half.
        saturated_share: Share of images, real and fake, whose scaled ratio lies beyond ±3, where the sigmoid is flat.
        reference_loss: Mean of what the reference loses on dataset images: the squared error of its denoising, or its
            negative log-likelihood in nats.
        target_loss: The same of the target, on the same noise. Rising is normal; twice the reference's is an alarm.
    """

    loss_real: Tensor
    loss_fake: Tensor
    ratio_real_mean: Tensor
    ratio_real_std: Tensor
    ratio_fake_mean: Tensor
    ratio_fake_std: Tensor
    discriminator_accuracy: Tensor
    saturated_share: Tensor
    reference_loss: Tensor
    target_loss: Tensor


@torch.no_grad()
def ratio_diagnostics(
    real_ratio_B: Tensor, fake_ratio_B: Tensor, reference_loss_B: Tensor, *, beta: float | None
) -> RatioDiagnostics:
    """Summarise the ratios of one step.

    Args:
        real_ratio_B: log p_theta / p_ref on dataset images, nats. Shape (B,).
        fake_ratio_B: The same on samples of the reference model. Shape (B,).
        reference_loss_B: What the reference loses on the dataset images, in the unit of the ratio. Shape (B,).
        beta: Scale of the ratio, 1/nats; None as in :func:`ddo_loss`, where nothing saturates.

    Source: arXiv:2503.01103, eq. 8: the implicit discriminator is sigmoid(ratio).
    """
    correct_real = (real_ratio_B.sign() + 1).mean() / 2
    correct_fake = (1 - fake_ratio_B.sign()).mean() / 2
    loss_real_B, loss_fake_B = loss_terms(real_ratio_B, fake_ratio_B, beta=beta)
    saturated = [(ratio_B * (beta or 0)).abs() > SATURATED_LOGIT for ratio_B in (real_ratio_B, fake_ratio_B)]
    return RatioDiagnostics(
        loss_real=loss_real_B.mean(),
        loss_fake=loss_fake_B.mean(),
        ratio_real_mean=real_ratio_B.mean(),
        ratio_real_std=real_ratio_B.std(correction=0),
        ratio_fake_mean=fake_ratio_B.mean(),
        ratio_fake_std=fake_ratio_B.std(correction=0),
        discriminator_accuracy=(correct_real + correct_fake) / 2,
        saturated_share=torch.stack([each_B.float().mean() for each_B in saturated]).mean(),
        reference_loss=reference_loss_B.mean(),
        target_loss=(reference_loss_B - real_ratio_B).mean(),
    )

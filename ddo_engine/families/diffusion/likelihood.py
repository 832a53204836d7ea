"""EDM's denoising loss, and the estimate of a log-likelihood ratio that DDO makes of it.

Shapes: B batch, C channels, H height, W width. Noise levels are written t as in the paper (EDM's sigma).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ddo_engine.families.diffusion.denoiser import Denoiser, broadcast_to_images
from ddo_engine.families.protocol import BatchPart


@dataclass(frozen=True)
class NoiseDraw:
    """The randomness of one evaluation of the loss.

    Attributes:
        t_B: Noise levels, > 0.
        eps_BCHW: Standard normal noise.
        augment_labels_BA: What was done to the images that the noise is added to; None if nothing was.
    """

    t_B: Tensor
    eps_BCHW: Tensor
    augment_labels_BA: Tensor | None = None


def draw_noise(
    x0_BCHW: Tensor, P_mean: float, P_std: float, generator: torch.Generator, rows: BatchPart | None = None
) -> NoiseDraw:
    """Draw ``log t ~ N(P_mean, P_std^2)`` and ``eps ~ N(0, 1)``, float32, for a batch of this shape.

    Order of the draws: a normal for each t of the whole batch, then C·H·W of them per row for eps.

    Args:
        x0_BCHW: Gives shape and device.
        P_mean: Mean of log t.
        P_std: Standard deviation of log t.
        generator: On that device.
        rows: Which of the batch these are; None: all.

    Source: arXiv:2206.00364, table 1.
    """
    device, num_rows = x0_BCHW.device, len(x0_BCHW)
    rows = rows or BatchPart(0, num_rows, num_rows)
    normal_B = torch.randn(rows.batch_size, generator=generator, device=device)
    eps_BCHW = torch.randn(rows.batch_size, *x0_BCHW.shape[1:], generator=generator, device=device)
    return NoiseDraw((rows.rows_of(normal_B) * P_std + P_mean).exp(), rows.rows_of(eps_BCHW))


def squared_error(model: Denoiser, x0_BCHW: Tensor, labels_B: Tensor | None, noise: NoiseDraw) -> Tensor:
    """Return ``(F_theta(x_t, t) − F)²``, which is ``lambda(t) (D − x0)²``, element by element. Shape (B, C, H, W).

    Source: arXiv:2206.00364, eq. 8.
    """
    output = _free_form_at_noise(model, x0_BCHW, labels_B, noise)
    return (output - model.free_form_target(x0_BCHW, noise.t_B, noise.eps_BCHW)).square()


def denoising_loss(model: Denoiser, x0_BCHW: Tensor, labels_B: Tensor | None, noise: NoiseDraw) -> Tensor:
    """Return ``‖F_theta(x_t, t) − F‖²``, the squared error summed over C·H·W. Shape (B,)."""
    return squared_error(model, x0_BCHW, labels_B, noise).flatten(1).sum(1)


def log_likelihood_ratio_estimate(
    target_model: Denoiser,
    reference_model: Denoiser,
    x0_BCHW: Tensor,
    labels_B: Tensor | None,
    noise: NoiseDraw,
) -> Tensor:
    """Return the first of what :func:`compare_at_noise` returns."""
    return compare_at_noise(target_model, reference_model, x0_BCHW, labels_B, noise)[0]


def compare_at_noise(
    target_model: Denoiser,
    reference_model: Denoiser,
    x0_BCHW: Tensor,
    labels_B: Tensor | None,
    noise: NoiseDraw,
) -> tuple[Tensor, Tensor]:
    """Return ``−(‖F_theta − F‖² − ‖F_ref − F‖²)`` and ``‖F_ref − F‖²``, both networks at the same noise and labels.

    Evaluated as ``sum (F_ref − F_theta)(F_ref + F_theta − 2F)``: the two norms are nearly equal, and their difference
    would carry the rounding of both sums.

    Returns:
        One-sample ELBO estimate of log p_theta − log p_ref in nats, whose gradients flow into ``target_model`` only;
        and the squared error of the reference, without gradient. Summed over C·H·W, shape (B,), float32.

    Source: arXiv:2503.01103, eqs. 14–16 and 43.
    """
    with torch.no_grad():
        reference = _free_form_at_noise(reference_model, x0_BCHW, labels_B, noise)
        F_BCHW = target_model.free_form_target(x0_BCHW, noise.t_B, noise.eps_BCHW)
        reference_loss_B = (reference - F_BCHW).square().flatten(1).sum(1)
    target = _free_form_at_noise(target_model, x0_BCHW, labels_B, noise)
    return ((reference - target) * (reference + target - 2 * F_BCHW)).flatten(1).sum(1), reference_loss_B


def _free_form_at_noise(model: Denoiser, x0_BCHW: Tensor, labels_B: Tensor | None, noise: NoiseDraw) -> Tensor:
    x_t = x0_BCHW + broadcast_to_images(noise.t_B) * noise.eps_BCHW
    return model.free_form(x_t, noise.t_B, labels_B, noise.augment_labels_BA)

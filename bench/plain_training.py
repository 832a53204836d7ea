"""DDO's loss as one would write it without this engine: four forward passes. What its speed is compared with."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.families.var.tokens import encoded
from ddo_engine.families.var.transformer import VAR


def plain_diffusion_ratios(
    target: Denoiser,
    reference: Denoiser,
    real: LabelledImages,
    fake: LabelledImages,
    t_B: Tensor,
    eps_BCHW: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the ratios of real and fake rows, shape (B,): differences of weighted distances to the image.

    Source: arXiv:2503.01103, eqs. 14–16.
    """

    def weighted_distance(model: Denoiser, batch: LabelledImages) -> Tensor:
        x0 = batch.images_BCHW.float() / 127.5 - 1
        denoised = model.denoise(x0 + t_B[:, None, None, None] * eps_BCHW, t_B, batch.labels_B)
        weight_B = (t_B**2 + model.sigma_data**2) / (t_B * model.sigma_data) ** 2
        return weight_B * (denoised - x0).square().flatten(1).sum(1)

    ratios = []
    for batch in (real, fake):
        of_target_B = weighted_distance(target, batch)
        with torch.no_grad():
            of_reference_B = weighted_distance(reference, batch)
        ratios.append(of_reference_B - of_target_B)
    return ratios[0], ratios[1]


def plain_var_ratios(target: VAR, reference: VAR, real: LabelledImages, fake: LabelledImages) -> tuple[Tensor, Tensor]:
    """Return the ratios of real and fake rows, shape (B,): differences of log-likelihoods.

    Source: arXiv:2503.01103, eq. 1.
    """

    def log_likelihood(model: VAR, tokens_BL: Tensor, labels_B: Tensor | None) -> Tensor:
        log_p_BLV = functional.log_softmax(model.logits(tokens_BL, labels_B), -1)
        return log_p_BLV.gather(-1, tokens_BL[..., None]).sum((1, 2))

    ratios = []
    for batch in (real, fake):
        tokens_BL = encoded(target.tokenizer, batch.images_BCHW)
        of_target_B = log_likelihood(target, tokens_BL, batch.labels_B)
        with torch.no_grad():
            of_reference_B = log_likelihood(reference, tokens_BL, batch.labels_B)
        ratios.append(of_target_B - of_reference_B)
    return ratios[0], ratios[1]


def plain_loss(real_ratio_B: Tensor, fake_ratio_B: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Return eq. 13 of arXiv:2503.01103, the mean over rows."""
    return (
        -functional.logsigmoid(beta * real_ratio_B).mean() - alpha * functional.logsigmoid(-beta * fake_ratio_B).mean()
    )


@torch.no_grad()
def plain_average(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the model's, one parameter after another."""
    for averaged, current in zip(ema_model.parameters(), model.parameters(), strict=True):
        averaged.mul_(decay).add_(current, alpha=1 - decay)

"""Discriminator guidance: the score of a model, corrected by what tells its samples from the data.

Of an optimal discriminator, logit(x; sigma) = log p_data(x; sigma) / p_model(x; sigma), so that its gradient is what
the score of the model lacks, at every noise level. In terms of the denoised image, D = x + sigma² score:

    D_corrected(x; sigma) = D(x; sigma) + w sigma² grad_x logit(x; sigma)

Source: arXiv:2211.17091, theorem 1, which is w = 1.
"""

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.diffusion.denoiser import Denoiser, broadcast_to_images
from ddo_engine.spec import DPMSolverSettings, HeunSettings


class TimeAwareDiscriminator(Protocol):
    """What guidance needs of a discriminator; the first four say what it was trained for."""

    @property
    def works_on(self) -> str: ...  # noqa: D102
    @property
    def img_resolution(self) -> int: ...  # noqa: D102
    @property
    def img_channels(self) -> int: ...  # noqa: D102
    @property
    def label_dim(self) -> int: ...  # noqa: D102

    def logit(self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """Return the log-odds that noisy images were real ones, row by row, differentiable by them. Shape (B,)."""


def corrected(
    denoise: Callable[[Tensor, Tensor], Tensor],
    discriminator: TimeAwareDiscriminator,
    labels_B: Tensor | None,
    weight: float,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``D(x_BCHW, sigma_B) + w sigma² grad_x logit(x; sigma)``.

    Args:
        denoise: D, guided or not.
        discriminator: In eval mode.
        labels_B: int64 class indices, or None.
        weight: w.
    """

    def denoise_and_correct(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        denoised = denoise(x_BCHW, sigma_B)
        # Rows do not see each other, so the gradient of the sum is each row's own.
        with torch.enable_grad():
            x = x_BCHW.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(discriminator.logit(x, sigma_B, labels_B).sum(), x)
        return denoised + weight * broadcast_to_images(sigma_B**2).to(denoised.dtype) * gradient.to(denoised.dtype)

    return denoise_and_correct


def discriminator_of(
    model: Denoiser, discriminator: nn.Module | None, sampler: HeunSettings | DPMSolverSettings
) -> TimeAwareDiscriminator | None:
    """Return the discriminator that corrects; None where the sampler asks for none.

    Raises:
        InvalidSpec: It asks for one and there is none, or one that is none, or does not fit the model.
    """
    if not sampler.is_corrected:
        return None
    if discriminator is None:
        raise InvalidSpec(
            "sampler.discriminator_weight: nothing to correct with: give a discriminator of the model, which the unit "
            "'discriminator' trains, or set the weight to 0",
            param="sampler.discriminator_weight",
        )
    if not callable(getattr(discriminator, "logit", None)):
        raise InvalidSpec(
            f"discriminator: a {type(discriminator).__name__} is none: give what a unit 'discriminator' has written",
            param="discriminator",
        )
    found = cast("TimeAwareDiscriminator", discriminator)
    shape, models = _shape_of(found), _shape_of(model)
    if shape != models:
        raise InvalidSpec(
            f"discriminator: it tells {shape} apart, the model draws {models}: give one that was trained for the model",
            param="discriminator",
        )
    if found.label_dim not in (0, model.label_dim):
        raise InvalidSpec(
            f"discriminator: it knows {found.label_dim} classes, the model {model.label_dim}: give one that was "
            "trained for the model",
            param="discriminator",
        )
    return found


def _shape_of(network: TimeAwareDiscriminator | Denoiser) -> str:
    return f"{network.works_on} of {network.img_channels}x{network.img_resolution}x{network.img_resolution}"

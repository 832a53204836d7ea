"""The denoiser that a sampler calls: a model, guided by another or by itself without labels, or by nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.spec import DPMSolverSettings, HeunSettings


def guided(
    model: Denoiser, guide: Denoiser | None, labels_B: Tensor | None, sampler: HeunSettings | DPMSolverSettings
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ``D(x_BCHW, sigma_B) = D_guide + w (D_model - D_guide)`` with ``w = sampler.guidance_scale``.

    Args:
        model: What is sampled from.
        guide: Network of the same shape of images; None: the model itself, which is only of use without labels.
        labels_B: int64 class indices, or None.
        sampler: Scale, and whether the guide sees the labels.

    Raises:
        InvalidSpec: See :func:`guide_of`.

    Source: arXiv:2406.02507, eq. 4 (autoguidance); arXiv:2207.12598 (classifier-free guidance).
    """
    guiding = guide_of(model, guide, sampler)
    if guiding is None:
        return lambda x_BCHW, sigma_B: model.denoise(x_BCHW, sigma_B, labels_B)
    guide_labels_B = labels_B if sampler.guide_sees_labels else None

    def denoise(x_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
        towards = model.denoise(x_BCHW, sigma_B, labels_B)
        away = guiding.denoise(x_BCHW, sigma_B, guide_labels_B)
        return away.to(towards.dtype).lerp(towards, sampler.guidance_scale)

    return denoise


def guide_of(model: Denoiser, guide: Denoiser | None, sampler: HeunSettings | DPMSolverSettings) -> Denoiser | None:
    """Return the network that guides: the guide, or the model itself without labels; None without guidance.

    Raises:
        InvalidSpec: Guidance is asked for and there is nothing to guide with, or the guide does not fit the model.
    """
    if not sampler.is_guided:
        return None
    if guide is None:
        if sampler.guide_sees_labels or model.label_dim == 0:
            raise InvalidSpec(
                "sampler.guidance_scale: nothing to guide with: give a guide checkpoint, or, for a conditional model, "
                "set sampler.guide_sees_labels to false; 1 turns guidance off",
                param="sampler.guidance_scale",
            )
        return model
    if (guide.img_resolution, guide.img_channels) != (model.img_resolution, model.img_channels):
        raise InvalidSpec(
            f"the guide denoises {guide.img_channels}x{guide.img_resolution}x{guide.img_resolution}, the model "
            f"{model.img_channels}x{model.img_resolution}x{model.img_resolution}: choose a guide of its shape",
            param="guide",
        )
    if guide.label_dim not in (0, model.label_dim):
        raise InvalidSpec(
            f"the guide knows {guide.label_dim} classes, the model {model.label_dim}: choose a guide of as many, or "
            "an unconditional one",
            param="guide",
        )
    return guide


@contextmanager
def computing_in(dtype: torch.dtype, *models: Denoiser) -> Iterator[None]:
    """Let the networks compute in ``dtype`` inside the block, where they have a choice."""
    before = [model.compute_dtype for model in models]
    for model in models:
        model.compute_dtype = dtype
    try:
        yield
    finally:
        for model, previous in zip(models, before, strict=True):
            model.compute_dtype = previous

"""The EDM family as the rest of the engine sees it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.errors import NonFiniteLoss
from ddo_engine.families.edm.likelihood import (
    NoiseDraw,
    denoising_loss,
    draw_noise,
    log_likelihood_ratio_estimate,
    normalise,
)
from ddo_engine.families.edm.networks import build_network
from ddo_engine.families.edm.precision import dropout_off, forbid_tf32
from ddo_engine.families.edm.preconditioning import PreconditionedDenoiser
from ddo_engine.families.edm.sampler import SampleStreams, heun, quantise
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import SamplerSettings, TrainingSettings


class EDMFamily:
    """Pixel-space diffusion under EDM's preconditioning: ``EDMPrecond`` (SongUNet) and ``MLPPrecond``."""

    name = "edm"

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        return build_network(config).eval()

    def draw_labels(self, model: nn.Module, seeds: Sequence[int]) -> Tensor | None:
        """See :meth:`ddo_engine.families.protocol.Family.draw_labels`."""
        return _open_streams(_denoiser(model), seeds)[2]

    @torch.no_grad()
    def sample(
        self,
        model: nn.Module,
        seeds: Sequence[int],
        labels_B: Tensor | None,
        sampler: SamplerSettings,
        *,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.sample`."""
        forbid_tf32()
        denoiser = _denoiser(model)
        streams, latents, drawn_labels_B = _open_streams(denoiser, seeds)
        device = next(denoiser.parameters()).device
        labels_on_device = labels_B if labels_B is not None else drawn_labels_B
        if labels_on_device is not None:
            labels_on_device = labels_on_device.to(device)
        with dropout_off(denoiser):
            images = heun(
                lambda x_BCHW, sigma_B: denoiser.denoise(x_BCHW, sigma_B, labels_on_device),
                latents.to(device),
                sampler,
                churn_noise=lambda: streams.normal(latents.shape[1:], torch.float64),
                on_call=on_step,
            )
        # As uint8 they would be black images, and nobody would know.
        if not bool(torch.isfinite(images).all()):
            raise NonFiniteLoss(
                "the checkpoint draws images that hold NaN or infinite values: its weights are not those of a working "
                "model; use an earlier checkpoint",
                param="checkpoint",
            )
        return quantise(images).cpu()

    def log_likelihood_ratios(
        self,
        target_model: nn.Module,
        reference_model: nn.Module,
        real: LabelledImages,
        fake: LabelledImages,
        training: TrainingSettings,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`ddo_engine.families.protocol.Family.log_likelihood_ratios`.

        One forward pass of 2B rows per network, both without dropout whatever mode they are in. Randomness: see
        :func:`ddo_engine.families.edm.likelihood.draw_noise`, for the B rows of ``real``.

        Raises:
            ValueError: ``real`` and ``fake`` differ in shape, or a conditional model gets images without labels.
        """
        if real.images_BCHW.shape != fake.images_BCHW.shape:
            raise ValueError(
                f"row i of fake shares its noise with row i of real, but their shapes are "
                f"{tuple(fake.images_BCHW.shape)} and {tuple(real.images_BCHW.shape)}"
            )
        forbid_tf32()
        target, reference = _denoiser(target_model), _denoiser(reference_model)
        noise = draw_noise(real.images_BCHW, training.P_mean, training.P_std, generator)
        x0_BCHW = normalise(torch.cat([real.images_BCHW, fake.images_BCHW]))
        labels_B = _labels_of(target, real, fake)
        twice = NoiseDraw(noise.t_B.repeat(2), noise.eps_BCHW.repeat(2, 1, 1, 1))
        with dropout_off(target, reference):
            ratios_B = log_likelihood_ratio_estimate(target, reference, x0_BCHW, labels_B, twice)
        real_B, fake_B = ratios_B.chunk(2)
        return real_B, fake_B

    def pretraining_loss(
        self, model: nn.Module, real: LabelledImages, training: TrainingSettings, generator: torch.Generator
    ) -> Tensor:
        """See :meth:`ddo_engine.families.protocol.Family.pretraining_loss`.

        Without dropout, as in the DDO loss: the control differs from DDO in nothing but the loss, and dropout's
        global generator would make a resumed run another run.

        Raises:
            ValueError: A conditional model gets images without labels.
        """
        forbid_tf32()
        denoiser = _denoiser(model)
        noise = draw_noise(real.images_BCHW, training.P_mean, training.P_std, generator)
        with dropout_off(denoiser):
            return denoising_loss(denoiser, normalise(real.images_BCHW), _labels_of(denoiser, real), noise)


def _denoiser(model: nn.Module) -> PreconditionedDenoiser:
    if not isinstance(model, PreconditionedDenoiser):
        raise TypeError(f"{type(model).__name__} is not a network of the family 'edm'")
    return model


def _labels_of(model: PreconditionedDenoiser, *batches: LabelledImages) -> Tensor | None:
    if model.label_dim == 0:
        return None
    labels = [batch.labels_B for batch in batches if batch.labels_B is not None]
    if len(labels) < len(batches):
        raise ValueError("the model is class-conditional: real and fake images must have labels")
    return torch.cat(labels)


def _open_streams(model: PreconditionedDenoiser, seeds: Sequence[int]) -> tuple[SampleStreams, Tensor, Tensor | None]:
    """Return the streams, past the draws of latents and labels, and those draws."""
    streams = SampleStreams(seeds)
    latents_BCHW = streams.normal((model.img_channels, model.img_resolution, model.img_resolution))
    labels_B = streams.integers(model.label_dim) if model.label_dim else None
    return streams, latents_BCHW, labels_B

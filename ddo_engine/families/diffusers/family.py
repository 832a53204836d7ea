"""The family of the library's models as the rest of the engine sees it."""

import math
from typing import Any

from torch import nn

from ddo_engine.errors import IncompatibleInputs, InvalidSpec
from ddo_engine.families.diffusers.networks import build_network
from ddo_engine.families.diffusers.unet import UNetDenoiser
from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.diffusion.family import DiffusionFamily
from ddo_engine.spec import AutoregressiveSettings, SamplerSettings


class DiffusersFamily(DiffusionFamily):
    """``UNet2DModel``, and ``AutoencoderKL``, from which no images are drawn."""

    name = "diffusers"

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`.

        Raises:
            CorruptCheckpoint: As there.
            InvalidSpec: The library is not installed.
        """
        return build_network(config).eval()

    def check_sampler(
        self,
        model: nn.Module,
        guide: nn.Module | None,
        sampler: SamplerSettings,
        discriminator: nn.Module | None = None,
    ) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_sampler`.

        Raises:
            InvalidSpec: As there; or the sampler starts at more noise than a network knows, or wants a null label.
        """
        super().check_sampler(model, guide, sampler, discriminator)
        assert not isinstance(sampler, AutoregressiveSettings)
        for network in (model, guide):
            if isinstance(network, UNetDenoiser):
                _check_noise_is_known(network, sampler.sigma_max)
        guiding = model if guide is None else guide
        if sampler.is_guided and not sampler.guide_sees_labels and _has_no_null_label(guiding):
            raise InvalidSpec(
                "sampler.guide_sees_labels: class-conditional models of the diffusers library have no null label; give "
                "an unconditional guide, or set sampler.guide_sees_labels to true and give a conditional one",
                param="sampler.guide_sees_labels",
            )

    def _denoiser(self, model: nn.Module) -> Denoiser:
        if getattr(model, "is_autoencoder", False):
            raise IncompatibleInputs(
                "the checkpoint is an AutoencoderKL, from which no images are drawn: give it as the autoencoder of a "
                "model of latents",
                param="checkpoint",
            )
        return super()._denoiser(model)


def _check_noise_is_known(network: UNetDenoiser, sigma_max: float) -> None:
    if network.sigma_max is not None and sigma_max > network.sigma_max:
        raise InvalidSpec(
            f"sampler.sigma_max: {sigma_max:g} is more noise than the last of the model's timesteps has; set "
            f"sampler.sigma_max to {_rounded_down(network.sigma_max):g}",
            param="sampler.sigma_max",
        )


def _has_no_null_label(network: nn.Module) -> bool:
    return isinstance(network, UNetDenoiser) and network.label_dim > 0


def _rounded_down(sigma: float) -> float:
    """Return at most ``sigma``, in few enough digits that a person can type them."""
    unit = 10.0 ** (math.floor(math.log10(sigma)) - 3)
    return math.floor(sigma / unit) * unit

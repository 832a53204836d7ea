"""Discriminators as the registry sees them: networks in checkpoints, from which no images are drawn."""

from typing import Any, NoReturn

from torch import nn

from ddo_engine.errors import IncompatibleInputs
from ddo_engine.families.diffusion.family import DiffusionFamily
from ddo_engine.families.discriminator.network import build_network


class DiscriminatorFamily(DiffusionFamily):
    """Builds discriminators; everything that wants a denoiser is refused."""

    name = "discriminator"

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        return build_network(config).eval()

    def _denoiser(self, model: nn.Module) -> NoReturn:
        raise IncompatibleInputs(
            "the checkpoint is a discriminator, from which no images are drawn: give it as the discriminator of the "
            "model that it was trained for",
            param="checkpoint",
        )

"""The EDM family as the rest of the engine sees it."""

from typing import Any

from torch import nn

from ddo_engine.families.diffusion.family import DiffusionFamily
from ddo_engine.families.edm.networks import build_network


class EDMFamily(DiffusionFamily):
    """``EDMPrecond`` (SongUNet, ADM) and ``MLPPrecond``."""

    name = "edm"

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        return build_network(config).eval()

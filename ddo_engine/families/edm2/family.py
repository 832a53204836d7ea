"""The EDM2 family as the rest of the engine sees it."""

from typing import Any

from torch import nn

from ddo_engine.families.diffusion.family import DiffusionFamily
from ddo_engine.families.edm2.networks import build_network
from ddo_engine.families.edm2.precond import normalise_weights_
from ddo_engine.spec import HeunSettings, SamplerSettings


class EDM2Family(DiffusionFamily):
    """``Precond``, in pixels or latents. Samples take 63 network evaluations, as in the official code."""

    name = "edm2"
    default_sampler: SamplerSettings = HeunSettings(num_steps=32, state_dtype="float32")

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        return build_network(config).eval()

    def constrain_(self, model: nn.Module) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.constrain_`: weights back to unit magnitude."""
        normalise_weights_(model)

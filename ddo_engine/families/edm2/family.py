"""The EDM2 family as the rest of the engine sees it."""

from typing import Any

from torch import Tensor, nn

from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.diffusion.family import DiffusionFamily
from ddo_engine.families.diffusion.likelihood import NoiseDraw
from ddo_engine.families.edm2.loss import uncertainty_weighted_error
from ddo_engine.families.edm2.networks import build_network
from ddo_engine.families.edm2.precond import Precond, normalise_weights_
from ddo_engine.families.edm2.unet import Block
from ddo_engine.families.protocol import BlockPlan
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

    def block_plan(self, model: nn.Module) -> BlockPlan:
        """See :meth:`ddo_engine.families.protocol.Family.block_plan`: at the blocks of the U-Net."""
        assert isinstance(model, Precond)
        return BlockPlan(model.unet, [module for module in model.unet.modules() if isinstance(module, Block)])

    def loss_at_noise(self, denoiser: Denoiser, x0_BCHW: Tensor, labels_B: Tensor | None, noise: NoiseDraw) -> Tensor:
        """Return the loss weighed by the predicted uncertainty, summed over C·H·W. Shape (B,), float32.

        Its mean over a batch is what the official training code differentiates. The DDO ratio leaves the uncertainty
        out: it is the squared errors alone that bound the likelihood (arXiv:2503.01103, eq. 43).
        """
        assert isinstance(denoiser, Precond)
        return uncertainty_weighted_error(denoiser, x0_BCHW, labels_B, noise).flatten(1).sum(1)

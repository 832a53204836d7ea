"""The EDM family as the rest of the engine sees it."""

from typing import Any

import torch
from torch import Tensor, nn

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.diffusion.family import DiffusionFamily
from ddo_engine.families.diffusion.training_settings import refuse_settings_of_tokens
from ddo_engine.families.edm.augment import AUGMENT_DIM, augment, draw_augmentation
from ddo_engine.families.edm.layers import UNetBlock
from ddo_engine.families.edm.networks import build_network
from ddo_engine.families.edm.preconditioning import PreconditionedDenoiser
from ddo_engine.families.protocol import BatchPart, BlockPlan
from ddo_engine.spec import TrainingSettings


class EDMFamily(DiffusionFamily):
    """``EDMPrecond`` (SongUNet, ADM) and ``MLPPrecond``."""

    name = "edm"

    def build(self, config: dict[str, Any]) -> nn.Module:
        """See :meth:`ddo_engine.families.protocol.Family.build`."""
        return build_network(config).eval()

    def check_training(self, model: nn.Module, training: TrainingSettings) -> None:
        """See :meth:`ddo_engine.families.protocol.Family.check_training`.

        Augmentation needs a network that is told of it: another one would take augmented images for data, and draw
        them.
        """
        refuse_settings_of_tokens(training)
        denoiser = self._denoiser(model)
        augment_dim = denoiser.augment_dim if isinstance(denoiser, PreconditionedDenoiser) else 0
        if training.augment_probability > 0 and augment_dim != AUGMENT_DIM:
            raise InvalidSpec(
                f"training.augment_probability: EDM's augmentation comes with {AUGMENT_DIM} labels, without which a "
                f"network would learn to draw augmented images; this one takes {augment_dim or 'none'} (augment_dim); "
                "set training.augment_probability to 0, or choose a checkpoint with augment_dim "
                f"{AUGMENT_DIM}",
                param="training.augment_probability",
            )

    def block_plan(self, model: nn.Module) -> BlockPlan:
        """See :meth:`ddo_engine.families.protocol.Family.block_plan`: at the blocks of the U-Nets.

        Raises:
            InvalidSpec: As there: of an ``MLPPrecond``.
        """
        blocks = [module for module in model.modules() if isinstance(module, UNetBlock)]
        if not blocks or not isinstance(model, PreconditionedDenoiser):
            return super().block_plan(model)
        return BlockPlan(model.model, blocks)

    def augment(
        self,
        x0_BCHW: Tensor,
        training: TrainingSettings,
        generator: torch.Generator,
        rows: BatchPart,
        *,
        num_batches: int = 1,
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`ddo_engine.families.diffusion.family.DiffusionFamily.augment`.

        Draws :func:`ddo_engine.families.edm.augment.draw_augmentation` for the whole batch; with probability 0 nothing.
        """
        if training.augment_probability == 0:
            return x0_BCHW, None
        draw = draw_augmentation(rows.batch_size, generator).of_rows(rows).repeat(num_batches)
        return augment(x0_BCHW, draw, training.augment_probability)

"""EDM2's network under EDM's preconditioning, with its head for the uncertainty of the loss."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ddo_engine.families.diffusion.denoiser import Denoiser, broadcast_to_images
from ddo_engine.families.edm2.layers import MPConv, MPFourier
from ddo_engine.families.edm2.unet import UNet


class Precond(Denoiser):
    """The preconditioned U-Net.

    Attributes:
        unet: F.
        use_fp16: F computes in float16 where ``compute_dtype`` says so; otherwise never.

    Source: arXiv:2312.02696, section 2.
    """

    family: ClassVar[str] = "edm2"

    def __init__(
        self,
        unet: UNet,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = True,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
    ) -> None:
        super().__init__(
            img_resolution=img_resolution, img_channels=img_channels, label_dim=label_dim, sigma_data=sigma_data
        )
        self.use_fp16 = use_fp16
        self.unet = unet
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1)

    def network(
        self, scaled_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """See :meth:`ddo_engine.families.diffusion.denoiser.Denoiser.network`.

        Raises:
            ValueError: Augmentation labels were given; this network has no input for them.
        """
        if augment_labels_BA is not None:
            raise ValueError("EDM2 networks take no augmentation labels")
        is_half = self.use_fp16 and self.compute_dtype == torch.float16
        dtype = torch.float16 if is_half else scaled_BCHW.dtype
        output: Tensor = self.unet(scaled_BCHW.to(dtype), c_noise_B, one_hot_BK)
        return output

    def logvar(self, sigma: Tensor | float) -> Tensor:
        """Return the predicted log variance of the loss, which pretraining weighs by; DDO does not.

        Args:
            sigma: Noise levels, > 0: a number, or a tensor of B values.

        Returns:
            Of the model's ``dtype``, shape (B, 1, 1, 1).

        Source: arXiv:2312.02696, eqs. 14–16 and 21.
        """
        device = self.logvar_linear.weight.device
        sigma_B = torch.as_tensor(sigma, dtype=self.dtype, device=device).reshape(-1)
        with torch.autocast(device.type, enabled=False):
            logvar_B1: Tensor = self.logvar_linear(self.logvar_fourier(self.scalings(sigma_B).c_noise_B))
        return broadcast_to_images(logvar_B1[:, 0])


def normalise_weights_(model: nn.Module) -> None:
    """Normalise every weight in place, as a forward pass in training mode does.

    The network's output stays what it was, but the weights stay at one magnitude, so that the effective learning rate
    does not decay as they grow.

    Source: arXiv:2312.02696, section 2.3 (forced weight normalisation) and algorithm 1.
    """
    for module in model.modules():
        if isinstance(module, MPConv):
            module.normalise_()

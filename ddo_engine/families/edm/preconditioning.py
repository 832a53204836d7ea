"""Networks of this family that wrap one module ``model`` as F."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.edm.layers import Linear


class PreconditionedDenoiser(Denoiser):
    """A denoiser around a plain network.

    Attributes:
        model: F. Called as ``model(x_BCHW, c_noise_B, one_hot_labels_BK | None, augment_labels_BA | None)``.
        use_fp16: F computes in float16 where ``compute_dtype`` says so; otherwise never.
    """

    family: ClassVar[str] = "edm"

    def __init__(
        self,
        model: nn.Module,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        sigma_data: float,
        use_fp16: bool = False,
    ) -> None:
        super().__init__(
            img_resolution=img_resolution, img_channels=img_channels, label_dim=label_dim, sigma_data=sigma_data
        )
        self.model = model
        self.use_fp16 = use_fp16

    @property
    def augment_dim(self) -> int:
        """Number of augmentation labels that F takes; 0 for no such input."""
        layer = getattr(self.model, "map_augment", None)
        return layer.in_features if isinstance(layer, Linear) else 0

    def network(
        self, scaled_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """See :meth:`ddo_engine.families.diffusion.denoiser.Denoiser.network`."""
        is_half = self.use_fp16 and self.compute_dtype == torch.float16
        dtype = torch.float16 if is_half else scaled_BCHW.dtype
        output: Tensor = self.model(scaled_BCHW.to(dtype), c_noise_B, one_hot_BK, augment_labels_BA)
        return output

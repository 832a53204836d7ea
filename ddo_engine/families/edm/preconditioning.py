"""Networks of this family that wrap one module ``model`` as F."""

from typing import ClassVar

from torch import Tensor, nn

from ddo_engine.families.diffusion.denoiser import Denoiser


class PreconditionedDenoiser(Denoiser):
    """A denoiser around a plain network.

    Attributes:
        model: F. Called as ``model(x_BCHW, c_noise_B, one_hot_labels_BK | None, augment_labels_BA | None)``.
    """

    family: ClassVar[str] = "edm"

    def __init__(
        self, model: nn.Module, *, img_resolution: int, img_channels: int, label_dim: int, sigma_data: float
    ) -> None:
        super().__init__(
            img_resolution=img_resolution, img_channels=img_channels, label_dim=label_dim, sigma_data=sigma_data
        )
        self.model = model

    def network(
        self, scaled_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """See :meth:`ddo_engine.families.diffusion.denoiser.Denoiser.network`."""
        output: Tensor = self.model(scaled_BCHW, c_noise_B, one_hot_BK, augment_labels_BA)
        return output

"""EDM's preconditioning: what turns a plain network F into a denoiser D.

Shapes: B batch, C channels, H height, W width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


def broadcast_to_images(values_B: Tensor) -> Tensor:
    """Return a tensor of shape (B,) as (B, 1, 1, 1)."""
    return values_B[:, None, None, None]


class PreconditionedDenoiser(nn.Module):
    """``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)``, computed in float32 whatever autocast says.

    Attributes:
        model: F. Called as ``model(x_BCHW, c_noise_B, one_hot_labels_BK | None, augment_labels_BA | None)``.
        img_resolution: Height and width.
        img_channels: C.
        label_dim: Number of classes; 0 for an unconditional model.
        sigma_data: Standard deviation of the data that the network expects.

    Source: arXiv:2206.00364, eq. 7 and table 1.
    """

    family: ClassVar[str] = "edm"

    def __init__(
        self, model: nn.Module, *, img_resolution: int, img_channels: int, label_dim: int, sigma_data: float
    ) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.sigma_data = sigma_data
        self.model = model

    def free_form(
        self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor | None, augment_labels_BA: Tensor | None = None
    ) -> Tensor:
        """Return ``F(c_in x; c_noise)``, the output of the network proper.

        Args:
            x_BCHW: Noisy images.
            sigma_B: Their noise levels, > 0.
            labels_B: int64 class indices. None asks a conditional model for its null label; an unconditional model
                takes no notice of labels.
            augment_labels_BA: EDM's augmentation labels, float; None stands for no augmentation.

        Returns:
            float32, shape (B, C, H, W).
        """
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x = x_BCHW.to(torch.float32)
            sigma = sigma_B.to(torch.float32)
            c_in = 1 / (self.sigma_data**2 + sigma**2).sqrt()
            c_noise = sigma.log() / 4
            output: Tensor = self.model(
                broadcast_to_images(c_in) * x, c_noise, self._one_hot(labels_B, x), augment_labels_BA
            )
        return output

    def denoise(
        self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor | None, augment_labels_BA: Tensor | None = None
    ) -> Tensor:
        """Return the denoised images D(x; sigma), float32. Arguments as in :meth:`free_form`."""
        F_BCHW = self.free_form(x_BCHW, sigma_B, labels_B, augment_labels_BA)
        sigma = broadcast_to_images(sigma_B.to(torch.float32))
        c_skip = self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        c_out = sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()
        return c_skip * x_BCHW.to(torch.float32) + c_out * F_BCHW

    def forward(
        self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor | None = None, augment_labels_BA: Tensor | None = None
    ) -> Tensor:
        """Same as :meth:`denoise`."""
        return self.denoise(x_BCHW, sigma_B, labels_B, augment_labels_BA)

    def _one_hot(self, labels_B: Tensor | None, x_BCHW: Tensor) -> Tensor | None:
        if self.label_dim == 0:
            return None
        if labels_B is None:
            return x_BCHW.new_zeros(x_BCHW.shape[0], self.label_dim)
        return functional.one_hot(labels_B, self.label_dim).to(torch.float32)

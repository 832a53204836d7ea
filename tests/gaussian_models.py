"""Models and discriminators of Gaussian images, in closed form: one mean per class, one variance for all pixels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddo_engine.families.diffusion.denoiser import Denoiser


@dataclass(frozen=True)
class Gaussian:
    """``x | label ~ N(means[label], variance)``, every pixel alike."""

    means: tuple[float, ...]
    variance: float

    def score(self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return the score of the density blurred by sigma."""
        return (self._mean(x_BCHW, labels_B) - x_BCHW) / self._blurred(sigma_B)

    def log_density(self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return its logarithm, row by row."""
        variance = self._blurred(sigma_B)
        squares = (x_BCHW - self._mean(x_BCHW, labels_B)).square() / variance
        return -(squares + torch.log(2 * torch.pi * variance)).flatten(1).sum(1) / 2

    def _mean(self, x_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return torch.tensor(self.means, dtype=x_BCHW.dtype)[labels_B][:, None, None, None]

    def _blurred(self, sigma_B: Tensor) -> Tensor:
        return self.variance + sigma_B[:, None, None, None] ** 2


class GaussianDenoiser(Denoiser):
    """The optimal denoiser of a Gaussian, ``x + sigma² score``, as a model of the family EDM."""

    family = "edm"

    def __init__(self, gaussian: Gaussian, img_resolution: int = 2) -> None:
        super().__init__(img_resolution=img_resolution, img_channels=1, label_dim=len(gaussian.means), sigma_data=0.5)
        self.gaussian = gaussian
        self.nothing = nn.Parameter(torch.zeros(()))

    def denoise(self, x_BCHW, sigma, labels=None, augment_labels_BA=None):
        return x_BCHW + sigma[:, None, None, None] ** 2 * self.gaussian.score(x_BCHW, sigma, labels)


class GaussianDiscriminator(nn.Module):
    """The optimal discriminator of two Gaussians: log p_data / p_model at any noise level."""

    def __init__(self, data: Gaussian, model: Gaussian, img_resolution: int = 2) -> None:
        super().__init__()
        self.data, self.model = data, model
        self.works_on, self.img_resolution, self.img_channels = "pixels", img_resolution, 1
        self.label_dim = len(data.means)

    def logit(self, x_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor) -> Tensor:
        densities = (each.log_density(x_BCHW, sigma_B, labels_B) for each in (self.data, self.model))
        return next(densities) - next(densities)

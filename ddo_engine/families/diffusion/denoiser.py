"""EDM's preconditioning: what turns a plain network F into a denoiser D.

Shapes: B batch, C channels, H height, W width, K classes, A augmentation labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.diffusion.space import PixelSpace, Space

Labels = Tensor | Sequence[int] | int


def broadcast_to_images(values_B: Tensor) -> Tensor:
    """Return a tensor of shape (B,) as (B, 1, 1, 1)."""
    return values_B[:, None, None, None]


@dataclass(frozen=True)
class Scalings:
    """EDM's four factors at B noise levels, each of shape (B,), in the dtype of these."""

    c_skip_B: Tensor
    c_out_B: Tensor
    c_in_B: Tensor
    c_noise_B: Tensor


class Denoiser(nn.Module):
    """``D(x; sigma) = c_skip x + c_out F(c_in x; c_noise)``, in :attr:`dtype` whatever autocast says.

    Attributes:
        family: Name of the model family in the registry.
        img_resolution: Height and width of what is denoised: pixels, or latents.
        img_channels: C.
        label_dim: Number of classes; 0 for an unconditional model.
        sigma_data: Standard deviation of the data that the network expects.
        space: Where it denoises: in pixels unless the loader of the checkpoint says otherwise.
        compute_dtype: float16 lets F compute in that, where the network has a choice. Only samplers change it.

    Source: arXiv:2206.00364, eq. 7 and table 1.
    """

    family: ClassVar[str]

    def __init__(self, *, img_resolution: int, img_channels: int, label_dim: int, sigma_data: float) -> None:
        super().__init__()
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.sigma_data = sigma_data
        self.space: Space = PixelSpace()
        self.compute_dtype = torch.float32

    @property
    def works_on(self) -> Literal["pixels", "latents"]:
        """What is denoised."""
        return self.space.kind

    @property
    def dtype(self) -> torch.dtype:
        """What images are denoised in: float64 by weights in float64, from which references come; otherwise float32."""
        weight = next(self.parameters(), None)
        return torch.float64 if weight is not None and weight.dtype == torch.float64 else torch.float32

    def network(
        self, scaled_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """Return F's output, shape (B, C, H, W). Every family has its own.

        Args:
            scaled_BCHW: ``c_in x``, in :attr:`dtype`, as are the others.
            c_noise_B: ``ln(sigma) / 4`` (EDM).
            one_hot_BK: Class labels, a row of zeros for the null label; None for an unconditional model.
            augment_labels_BA: EDM's augmentation labels, or None.
        """
        raise NotImplementedError

    def scalings(self, sigma_B: Tensor) -> Scalings:
        """Return the factors at these noise levels. A family with other ones overrides this and the target below."""
        variance_B = sigma_B**2 + self.sigma_data**2
        return Scalings(
            c_skip_B=self.sigma_data**2 / variance_B,
            c_out_B=sigma_B * self.sigma_data / variance_B.sqrt(),
            c_in_B=1 / variance_B.sqrt(),
            c_noise_B=sigma_B.log() / 4,
        )

    def free_form_target(self, x0_BCHW: Tensor, t_B: Tensor, eps_BCHW: Tensor) -> Tensor:
        """Return ``F = (x0 - c_skip x_t) / c_out`` for ``x_t = x0 + t eps``: what the network proper should output.

        Written as ``(t x0 / sigma_data - sigma_data eps) / sqrt(t^2 + sigma_data^2)``, which is the same and does not
        subtract nearly equal images at small t.

        Source: arXiv:2503.01103, eqs. 40–42.
        """
        t = broadcast_to_images(t_B)
        return (x0_BCHW * t / self.sigma_data - self.sigma_data * eps_BCHW) / (t**2 + self.sigma_data**2).sqrt()

    def free_form(
        self, x_BCHW: Tensor, sigma: Tensor | float, labels: Labels | None, augment_labels_BA: Tensor | None = None
    ) -> Tensor:
        """Return ``F(c_in x; c_noise)``, the output of the network proper.

        Args:
            x_BCHW: Noisy images.
            sigma: Their noise levels, > 0: a number, or a tensor of B values or of one, of any shape.
            labels: Class indices, integers of shape (B,) (or one index for all), or float rows of shape (B, K) (or one
                for all) as in the official code. None asks a conditional model for its null label; an unconditional
                model takes no notice of labels.
            augment_labels_BA: EDM's augmentation labels, float; None stands for no augmentation.

        Returns:
            Of :attr:`dtype`, shape (B, C, H, W).

        Raises:
            ValueError: Images of another number of channels than the model's, sigmas or labels of another number than
                images, or labels that are not classes of the model.
        """
        if x_BCHW.ndim != 4 or x_BCHW.shape[1] != self.img_channels:
            raise ValueError(f"images must have shape (B, {self.img_channels}, H, W), not {tuple(x_BCHW.shape)}")
        with torch.autocast(x_BCHW.device.type, enabled=False):
            x = x_BCHW.to(self.dtype)
            scalings = self.scalings(_per_image(sigma, x))
            scaled = broadcast_to_images(scalings.c_in_B) * x
            one_hot = self._one_hot(labels, x)
            return self.network(scaled, scalings.c_noise_B, one_hot, augment_labels_BA).to(x.dtype)

    def denoise(
        self,
        x_BCHW: Tensor,
        sigma: Tensor | float,
        labels: Labels | None = None,
        augment_labels_BA: Tensor | None = None,
    ) -> Tensor:
        """Return the denoised images D(x; sigma), of :attr:`dtype`. Arguments and errors as in :meth:`free_form`."""
        F_BCHW = self.free_form(x_BCHW, sigma, labels, augment_labels_BA)
        x = x_BCHW.to(self.dtype)
        scalings = self.scalings(_per_image(sigma, x))
        return broadcast_to_images(scalings.c_skip_B) * x + broadcast_to_images(scalings.c_out_B) * F_BCHW

    def forward(
        self,
        x_BCHW: Tensor,
        sigma: Tensor | float,
        labels: Labels | None = None,
        augment_labels_BA: Tensor | None = None,
    ) -> Tensor:
        """Same as :meth:`denoise`."""
        return self.denoise(x_BCHW, sigma, labels, augment_labels_BA)

    def _one_hot(self, labels: Labels | None, x_BCHW: Tensor) -> Tensor | None:
        if self.label_dim == 0:
            return None
        if labels is None:
            return x_BCHW.new_zeros(x_BCHW.shape[0], self.label_dim)
        labels = torch.as_tensor(labels)
        if labels.is_floating_point():
            if labels.ndim not in (1, 2) or labels.shape[-1] != self.label_dim:
                raise ValueError(f"label rows must have {self.label_dim} values, not {tuple(labels.shape)}")
            rows_BK = labels.to(x_BCHW).reshape(-1, self.label_dim)
        else:
            rows_BK = self._rows_of_indices(labels).to(x_BCHW)
        if len(rows_BK) not in (1, len(x_BCHW)):
            raise ValueError(f"{len(rows_BK)} labels for {len(x_BCHW)} images: give one, or one each")
        return rows_BK.expand(len(x_BCHW), -1)

    def _rows_of_indices(self, labels: Tensor) -> Tensor:
        if labels.ndim > 1:
            raise ValueError(f"class indices must have shape (B,), not {tuple(labels.shape)}; rows must be floats")
        # On a GPU the answer would have to be waited for in every call, and the next line fails there by itself.
        if not labels.is_cuda and not bool(((labels >= 0) & (labels < self.label_dim)).all()):
            raise ValueError(f"labels must be class indices in 0 … {self.label_dim - 1}")
        return functional.one_hot(labels.reshape(-1).to(torch.int64), self.label_dim)


def _per_image(sigma: Tensor | float, x_BCHW: Tensor) -> Tensor:
    sigma_B = torch.as_tensor(sigma, dtype=x_BCHW.dtype, device=x_BCHW.device).reshape(-1)
    if len(sigma_B) not in (1, len(x_BCHW)):
        raise ValueError(f"{len(sigma_B)} noise levels for {len(x_BCHW)} images: give one, or one each")
    return sigma_B.expand(len(x_BCHW))

"""Between images as they are stored and what a diffusion model denoises: pixels in [-1, 1], or scaled latents."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ddo_engine.errors import IncompatibleInputs
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.spec import PositiveFloat, Settings


class LatentScaling(Settings):
    """How a model's latents follow from an autoencoder's: ``final_mean + final_std (raw - raw_mean) / raw_std``.

    ``raw_mean`` and ``raw_std`` have one value per latent channel.
    """

    raw_mean: tuple[float, ...]
    raw_std: tuple[PositiveFloat, ...]
    final_mean: float = 0.0
    final_std: PositiveFloat = 0.5


@runtime_checkable
class Autoencoder(Protocol):
    """What maps pixels to latents and back. Shapes: c latent channels, h and w latent height and width."""

    latent_channels: int
    downsampling: int  # pixels per latent, along each side
    img_channels: int  # of its pixels

    def encode_moments(self, images_BCHW: Tensor) -> Tensor:
        """Return mean and standard deviation of the latents of uint8 images: float32, (B, 2c, h, w)."""

    def decode(self, latents_Bchw: Tensor) -> Tensor:
        """Return the uint8 images of raw latents, (B, C, H, W)."""


class Space(Protocol):
    """The space in which a model denoises.

    Attributes:
        kind: Its name in reports.
    """

    @property
    def kind(self) -> Literal["pixels", "latents"]: ...  # noqa: D102

    def to_model(self, stored: LabelledImages, generator: torch.Generator) -> Tensor:
        """Map a stored batch to what the model denoises, float32."""

    def to_images(self, x_BCHW: Tensor) -> Tensor:
        """Map samples to uint8 images."""


def normalise(images_BCHW: Tensor) -> Tensor:
    """Map uint8 images to float32 in [-1, 1]."""
    return images_BCHW.to(torch.float32) / 127.5 - 1


def quantise(x_BCHW: Tensor) -> Tensor:
    """Map images in [-1, 1] to uint8 as EDM does: ``127.5 x + 128``, clipped and truncated."""
    return (x_BCHW * 127.5 + 128).clip(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class PixelSpace:
    """Images in [-1, 1]."""

    kind: ClassVar[Literal["pixels"]] = "pixels"

    def to_model(self, stored: LabelledImages, generator: torch.Generator) -> Tensor:
        """Map uint8 images to float32 in [-1, 1]; draws nothing.

        Raises:
            ValueError: The batch holds latents.
        """
        if stored.images_BCHW.dtype != torch.uint8:
            raise ValueError("the model works on pixels, but the batch holds latents")
        return normalise(stored.images_BCHW)

    def to_images(self, x_BCHW: Tensor) -> Tensor:
        """See :func:`quantise`."""
        return quantise(x_BCHW)


@dataclass(frozen=True)
class LatentSpace:
    """Latents of an autoencoder, shifted and scaled channel by channel to the model's mean and standard deviation.

    Attributes:
        scaling: What the model was trained with.
        autoencoder: None as long as no pixels are needed.

    Source: arXiv:2312.02696, section 4 (the latents of EDM2), with the constants of its checkpoints.
    """

    kind: ClassVar[Literal["latents"]] = "latents"
    scaling: LatentScaling
    autoencoder: Autoencoder | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "LatentSpace":
        """Copies of a model share the autoencoder, which nothing changes."""
        return self

    def to_model(self, stored: LabelledImages, generator: torch.Generator) -> Tensor:
        """Draw latents from stored moments (B, 2c, h, w) and scale them: one standard normal per value of the mean.

        Raises:
            ValueError: The batch holds pixels: they are encoded once, before training.
        """
        if stored.images_BCHW.dtype == torch.uint8:
            raise ValueError("the model works on latents, but the batch holds pixels: encode the dataset first")
        mean, std = stored.images_BCHW.chunk(2, dim=1)
        rows = stored.rows
        noise = rows.rows_of(torch.randn(rows.batch_size, *mean.shape[1:], generator=generator, device=mean.device))
        scale, shift = self._scale_and_shift(mean)
        return (mean + std * noise) * scale + shift

    def to_images(self, x_BCHW: Tensor) -> Tensor:
        """Undo the scaling and decode.

        Raises:
            IncompatibleInputs: No autoencoder was given.
        """
        if self.autoencoder is None:
            raise IncompatibleInputs(
                "the checkpoint draws latents, and nothing says how to decode them: give the autoencoder that it was "
                "trained with",
                param="autoencoder",
            )
        scale, shift = self._scale_and_shift(x_BCHW)
        return self.autoencoder.decode(((x_BCHW - shift) / scale).to(torch.float32))

    def _scale_and_shift(self, like_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        raw_mean, raw_std = (
            torch.tensor(values, dtype=like_BCHW.dtype, device=like_BCHW.device)[None, :, None, None]
            for values in (self.scaling.raw_mean, self.scaling.raw_std)
        )
        scale = self.scaling.final_std / raw_std
        return scale, self.scaling.final_mean - raw_mean * scale

"""The library's ``AutoencoderKL`` as the autoencoder of EDM2's latents.

EDM2 feeds it pixels in [0, 1], although it was trained on [-1, 1], and its latents are neither scaled nor shifted by
the library's ``scaling_factor``: :class:`ddo_engine.families.diffusion.space.LatentScaling` does that.

Shapes: B batch, C image channels, c latent channels, h and w latent height and width.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from ddo_engine.errors import NonFiniteLoss
from ddo_engine.families.diffusers.optional_package import network_class
from ddo_engine.families.diffusers.precision import call_in
from ddo_engine.families.diffusers.unet_config import MAX_LEVELS, Activation, Channels
from ddo_engine.families.diffusion.precision import forbid_tf32
from ddo_engine.spec import PositiveFloat, Settings

_LOG_VARIANCE_BOUNDS = (-30.0, 20.0)  # the library's
_PIXELS_OF_A_CALL, _MOST_ROWS_OF_A_CALL = 256 * 256, 16


class AutoencoderArguments(Settings):
    """Constructor arguments of the library's ``AutoencoderKL``; names and defaults are its own."""

    in_channels: Literal[1, 3] = 3
    out_channels: Literal[1, 3] = 3
    down_block_types: Annotated[
        tuple[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"], ...], Field(min_length=1, max_length=MAX_LEVELS)
    ] = ("DownEncoderBlock2D",)
    up_block_types: Annotated[
        tuple[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"], ...], Field(min_length=1, max_length=MAX_LEVELS)
    ] = ("UpDecoderBlock2D",)
    block_out_channels: Annotated[tuple[Channels, ...], Field(min_length=1, max_length=MAX_LEVELS)] = (64,)
    layers_per_block: int = Field(default=1, ge=1, le=16)
    act_fn: Activation = "silu"
    latent_channels: int = Field(default=4, ge=1, le=1024)
    norm_num_groups: Channels = 32
    sample_size: int = Field(default=32, ge=1, le=4096)
    scaling_factor: PositiveFloat = 0.18215
    shift_factor: float | None = None
    latents_mean: Annotated[tuple[float, ...], Field(max_length=1024)] | None = None
    latents_std: Annotated[tuple[float, ...], Field(max_length=1024)] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @field_validator("sample_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
            return value[0]
        return value

    @model_validator(mode="after")
    def _shapes_work_out(self) -> Self:
        if self.in_channels != self.out_channels:
            raise ValueError("out_channels must equal in_channels")
        if not len(self.down_block_types) == len(self.up_block_types) == len(self.block_out_channels):
            raise ValueError("down_block_types, up_block_types and block_out_channels must be of one length")
        return self


class AutoencoderConfig(Settings):
    """An ``AutoencoderKL``."""

    class_name: Literal["AutoencoderKL"]
    vae: AutoencoderArguments


class KLAutoencoder(nn.Module):
    """What maps pixels to moments of latents, and latents to pixels; its state dict is that of the library's class.

    Networks are called with a fixed number of images, so that a latent or an image depends on nothing beside it.

    Attributes:
        img_resolution: That it was trained at; others are encoded too.
        img_channels: C.
        label_dim: 0.
        latent_channels: c.
        downsampling: Pixels per latent, along each side.
        is_autoencoder: Tells it from models that images are drawn from.
    """

    family: ClassVar[str] = "diffusers"
    is_autoencoder: ClassVar[bool] = True
    label_dim: ClassVar[int] = 0
    works_on: ClassVar[Literal["pixels"]] = "pixels"

    def __init__(self, config: AutoencoderConfig) -> None:
        """Build the network, randomly initialised.

        Raises:
            InvalidSpec: The library is not installed.
            ValueError: The library has no such network.
        """
        super().__init__()
        self.img_resolution = config.vae.sample_size
        self.img_channels = config.vae.in_channels
        self.latent_channels = config.vae.latent_channels
        self.downsampling = 2 ** (len(config.vae.block_out_channels) - 1)
        whole: nn.Module = network_class("AutoencoderKL")(**config.vae.model_dump())
        for name, part in whole.named_children():
            self.add_module(name, part)

    @torch.no_grad()
    def encode_moments(self, images_BCHW: Tensor) -> Tensor:
        """Return the mean and the standard deviation of each latent value.

        Args:
            images_BCHW: uint8; height and width divisible by ``downsampling``.

        Returns:
            float32 of shape (B, 2c, h, w), means before standard deviations, on the device of the network.

        Raises:
            ValueError: The images are not as described.
        """
        self._require_images(images_BCHW)
        num_pixels = images_BCHW.shape[2] * images_BCHW.shape[3]
        return self._in_calls(lambda rows: self.moments(rows.to(torch.float32) / 255), images_BCHW, num_pixels)

    @torch.no_grad()
    def decode(self, latents_Bchw: Tensor) -> Tensor:
        """Return images of latents as the encoder gives them, without the model's scaling.

        Args:
            latents_Bchw: Floating point.

        Returns:
            uint8 of shape (B, C, H, W): clamped to [0, 1], times 255, truncated as in EDM2; on the device of the
            network.

        Raises:
            ValueError: The latents have another number of channels.
            NonFiniteLoss: A pixel is NaN or infinite before it is rounded.
        """
        if latents_Bchw.ndim != 4 or latents_Bchw.shape[1] != self.latent_channels:
            raise ValueError(
                f"latents must be of shape (B, {self.latent_channels}, h, w), not {tuple(latents_Bchw.shape)}"
            )
        num_pixels = latents_Bchw.shape[2] * latents_Bchw.shape[3] * self.downsampling**2
        return self._in_calls(self._quantised, latents_Bchw, num_pixels)

    def moments(self, images_BCHW: Tensor) -> Tensor:
        """Return means and standard deviations of the latents of images in [0, 1], all in one call."""
        outputs: Tensor = call_in(torch.float32, self.get_submodule("encoder"), images_BCHW)
        if "quant_conv" in self._modules:
            outputs = call_in(torch.float32, self.get_submodule("quant_conv"), outputs)
        mean, log_variance = outputs.chunk(2, dim=1)
        return torch.cat([mean, (log_variance.clamp(*_LOG_VARIANCE_BOUNDS) / 2).exp()], dim=1)

    def reconstruct(self, latents_Bchw: Tensor) -> Tensor:
        """Return images of latents, about in [0, 1], all in one call."""
        if "post_quant_conv" in self._modules:
            latents_Bchw = call_in(torch.float32, self.get_submodule("post_quant_conv"), latents_Bchw)
        images: Tensor = call_in(torch.float32, self.get_submodule("decoder"), latents_Bchw)
        return images

    def _quantised(self, latents_Bchw: Tensor) -> Tensor:
        images = self.reconstruct(latents_Bchw.to(torch.float32))
        if not bool(torch.isfinite(images).all()):
            raise NonFiniteLoss(
                "the autoencoder decodes latents to NaN or infinite pixels: they are not latents of this autoencoder, "
                "or the model that drew them does not work",
                param="autoencoder",
            )
        return (images.clamp(0, 1) * 255).to(torch.uint8)

    def _in_calls(self, call: Callable[[Tensor], Tensor], rows: Tensor, num_pixels: int) -> Tensor:
        """Apply a network to rows, the last of them repeated until all calls have the same number."""
        forbid_tf32()
        device = next(self.parameters()).device
        per_call = max(1, min(_PIXELS_OF_A_CALL // num_pixels, _MOST_ROWS_OF_A_CALL))
        outputs = []
        with torch.autocast(device.type, enabled=False):
            for piece in torch.split(rows, per_call):
                missing = per_call - len(piece)
                padded = torch.cat([piece, piece[-1:].expand(missing, *piece.shape[1:])]) if missing else piece
                outputs.append(call(padded.to(device))[: len(piece)])
        return torch.cat(outputs)

    def _require_images(self, images_BCHW: Tensor) -> None:
        shape = tuple(images_BCHW.shape)
        if images_BCHW.dtype != torch.uint8 or len(shape) != 4 or shape[1] != self.img_channels or shape[0] == 0:
            raise ValueError(f"images must be uint8 of shape (B, {self.img_channels}, H, W), not {shape}")
        if shape[2] % self.downsampling or shape[3] % self.downsampling:
            raise ValueError(f"height and width must be divisible by {self.downsampling}, not {shape[2]}x{shape[3]}")

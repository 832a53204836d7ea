"""VAR's tokenizer: images as 680 tokens of ten scales, and back.

Shapes: B batch, L tokens of all scales, l those of one, C channels of the features ("Cvae"), h and w the side of the
finest token map, H and W pixels.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ddo_engine.families.var.encoder_decoder import Decoder, Encoder, EncoderDecoderShape
from ddo_engine.families.var.quantizer import MultiScaleQuantizer, Quantisation
from ddo_engine.families.var.vqgan_layers import convolution


class VQVAE(nn.Module):
    """A convolutional autoencoder with a multi-scale residual quantiser in its middle.

    Args:
        vocab_size: Entries of the codebook.
        z_channels: Channels of the features.
        ch: Base width of encoder and decoder.
        v_patch_nums: Side of each scale's token map, increasing.
        ch_mult: Width of each level in units of ``ch``.
        num_res_blocks: A level.
        in_channels: Of the pixels.
        using_sa: Attention at the lowest level.
        using_mid_sa: Attention in the middle.
        share_quant_resi: Number of phi convolutions that the scales share.
        quant_resi: Share of the convolution in phi.
        dropout: Of encoder and decoder, in training mode.

    Attributes:
        img_resolution: Pixels a side.
        img_channels: Of the pixels.
        patch_nums: ``v_patch_nums``.
        num_tokens: L.

    Source: arXiv:2404.02905, section 3.2.
    """

    family: ClassVar[str] = "var"
    works_on: ClassVar[Literal["pixels"]] = "pixels"
    is_autoencoder: ClassVar[bool] = True
    label_dim: ClassVar[int] = 0

    def __init__(
        self,
        *,
        vocab_size: int,
        z_channels: int,
        ch: int,
        v_patch_nums: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        ch_mult: Sequence[int] = (1, 1, 2, 2, 4),
        num_res_blocks: int = 2,
        in_channels: int = 3,
        using_sa: bool = True,
        using_mid_sa: bool = True,
        share_quant_resi: int = 4,
        quant_resi: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        shape = EncoderDecoderShape(
            z_channels=z_channels,
            in_channels=in_channels,
            ch=ch,
            ch_mult=tuple(ch_mult),
            num_res_blocks=num_res_blocks,
            using_sa=using_sa,
            using_mid_sa=using_mid_sa,
            dropout=dropout,
        )
        self.vocab_size = vocab_size
        self.z_channels = z_channels
        self.patch_nums = tuple(v_patch_nums)
        self.num_tokens = sum(side**2 for side in self.patch_nums)
        self.img_channels = in_channels
        self.img_resolution = self.patch_nums[-1] * shape.downsampling
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        self.quantize = MultiScaleQuantizer(
            vocab_size,
            z_channels,
            self.patch_nums,
            num_convolutions=share_quant_resi,
            residual_ratio=quant_resi,
        )
        self.quant_conv = convolution(z_channels, z_channels)
        self.post_quant_conv = convolution(z_channels, z_channels)

    @torch.no_grad()
    def encode(self, images_BCHW: Tensor) -> Tensor:
        """Return the tokens of images, all scales one after the other.

        Args:
            images_BCHW: uint8 pixels, or floats in [-1, 1], of this tokenizer's size.

        Returns:
            int64, shape (B, L).

        Raises:
            ValueError: The images have another shape or dtype.
        """
        return torch.cat(self.quantise(self.features(images_BCHW)).tokens, dim=1)

    @torch.no_grad()
    def decode(self, tokens_BL: Tensor) -> Tensor:
        """Return the images of tokens: float32 in [-1, 1], clamped, shape (B, C, H, W).

        Raises:
            ValueError: There are not L tokens in a row, or one is not an index into the codebook.
        """
        return self.decode_features(self.f_hat(tokens_BL))

    def features(self, images_BCHW: Tensor) -> Tensor:
        """Return what is quantised, shape (B, z_channels, h, w). Arguments and errors as in :meth:`encode`."""
        expected = (self.img_channels, self.img_resolution, self.img_resolution)
        if images_BCHW.ndim != 4 or images_BCHW.shape[1:] != expected:
            raise ValueError(
                f"images must have shape (B, {', '.join(map(str, expected))}), not {tuple(images_BCHW.shape)}"
            )
        dtype = self.quant_conv.weight.dtype
        if images_BCHW.dtype == torch.uint8:
            images_BCHW = images_BCHW.to(torch.float32) / 127.5 - 1
        elif not images_BCHW.is_floating_point():
            raise ValueError(f"images must be uint8, or floats in [-1, 1], not {images_BCHW.dtype}")
        features: Tensor = self.quant_conv(self.encoder(images_BCHW.to(dtype)))
        return features

    def quantise(self, f_BChw: Tensor) -> Quantisation:
        """Return tokens and cumulative reconstructions of features, scale by scale."""
        return self.quantize.quantise(f_BChw)

    def decode_features(self, f_hat_BChw: Tensor) -> Tensor:
        """Return the images of quantised features: float32 in [-1, 1], clamped."""
        return self.decode_unclamped(f_hat_BChw).clamp(-1, 1)

    def decode_unclamped(self, f_hat_BChw: Tensor) -> Tensor:
        """Return what the decoder makes of quantised features: float32, around [-1, 1]."""
        pixels: Tensor = self.decoder(self.post_quant_conv(f_hat_BChw))
        return pixels.to(torch.promote_types(pixels.dtype, torch.float32))

    def f_hat(self, tokens_BL: Tensor) -> Tensor:
        """Return the features that all tokens together stand for, shape (B, C, h, w). Errors as in :meth:`decode`."""
        tokens = self.split(tokens_BL)
        total = self.quantize.embed(tokens[0], 0)
        for scale in range(1, len(tokens)):
            total = total + self.quantize.embed(tokens[scale], scale)
        return total

    def next_scale_inputs(self, tokens_BL: Tensor) -> Tensor:
        """Return the transformer's inputs under teacher forcing: what the coarser scales say, at each next resolution.

        Returns:
            Shape (B, L - l_0, C): the first scale has no input of this kind.

        Raises:
            ValueError: As in :meth:`decode`.
        """
        tokens = self.split(tokens_BL)
        f_hat: Tensor | None = None
        inputs = []
        for scale in range(len(tokens) - 1):
            f_hat, following = self.next_scale_input(f_hat, tokens[scale], scale)
            inputs.append(following)
        return torch.cat(inputs, dim=1)

    def next_scale_input(self, f_hat_BChw: Tensor | None, tokens_Bl: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Take one scale's tokens into account.

        Args:
            f_hat_BChw: Features that the scales before stand for; None at the first.
            tokens_Bl: Tokens of this scale, which is not the last.
            scale: Its index.

        Returns:
            The features with this scale, and the transformer's input at the next one, shape (B, l, C).
        """
        added = self.quantize.embed(tokens_Bl, scale)
        f_hat = added if f_hat_BChw is None else f_hat_BChw + added
        return f_hat, self.quantize.at_scale(f_hat, scale + 1)

    def split(self, tokens_BL: Tensor) -> list[Tensor]:
        """Return the tokens of each scale, shape (B, l).

        Raises:
            ValueError: As in :meth:`decode`.
        """
        if tokens_BL.ndim != 2 or tokens_BL.shape[1] != self.num_tokens or tokens_BL.dtype != torch.int64:
            raise ValueError(
                f"tokens must be int64 of shape (B, {self.num_tokens}), not {tokens_BL.dtype} of "
                f"{tuple(tokens_BL.shape)}"
            )
        if not bool(((tokens_BL >= 0) & (tokens_BL < self.vocab_size)).all()):
            raise ValueError(f"tokens must lie in 0 … {self.vocab_size - 1}")
        return list(torch.split(tokens_BL, [side**2 for side in self.patch_nums], dim=1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return the images as the tokenizer gives them back: ``decode(encode(images))``."""
        return self.decode(self.encode(images_BCHW))

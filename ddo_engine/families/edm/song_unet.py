"""The U-Nets DDPM++ and NCSN++ under EDM's preconditioning, keys as in the official checkpoints.

Source: arXiv:2011.13456 (the architectures), arXiv:2206.00364, table 7 (EDM's configurations of them).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.edm.embeddings import FourierEmbedding, PositionalEmbedding
from ddo_engine.families.edm.layers import Conv2d, UNetBlock, group_norm, linear
from ddo_engine.families.edm.preconditioning import PreconditionedDenoiser

_EPS = 1e-6
_SQRT_HALF = 0.5**0.5


class SongUNet(nn.Module):
    """F as a U-Net: DDPM++ with the standard encoder, NCSN++ with the residual one. Arguments: :class:`EDMPrecond`."""

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int,
        augment_dim: int,
        model_channels: int,
        channel_mult: Sequence[int],
        channel_mult_emb: int,
        num_blocks: int,
        attn_resolutions: Sequence[int],
        dropout: float,
        embedding_type: str,
        channel_mult_noise: int,
        encoder_type: str,
        resample_filter: Sequence[float],
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        channels = [model_channels * multiplier for multiplier in channel_mult]
        resolutions = [img_resolution >> level for level in range(len(channels))]

        embedding = PositionalEmbedding if embedding_type == "positional" else FourierEmbedding
        self.map_noise = embedding(noise_channels)
        self.map_label = linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = linear(noise_channels, emb_channels)
        self.map_layer1 = linear(emb_channels, emb_channels)

        def block(in_channels: int, out_channels: int, *, attention: bool = False, **resampling: bool) -> UNetBlock:
            return UNetBlock(
                in_channels,
                out_channels,
                emb_channels,
                attention=attention,
                num_heads=1,
                dropout=dropout,
                skip_scale=_SQRT_HALF,
                eps=_EPS,
                resample_filter=resample_filter,
                resample_proj=True,
                adaptive_scale=False,
                **resampling,
            )

        self.enc = nn.ModuleDict()
        self.enc[f"{img_resolution}x{img_resolution}_conv"] = Conv2d(img_channels, model_channels, 3)
        width, aux_width = model_channels, img_channels
        skip_widths = [model_channels]
        for level, (resolution, level_channels) in enumerate(zip(resolutions, channels, strict=True)):
            name = f"{resolution}x{resolution}"
            if level > 0:
                self.enc[f"{name}_down"] = block(width, width, down=True)
                skip_widths.append(width)
                if encoder_type == "residual":
                    self.enc[f"{name}_aux_residual"] = Conv2d(
                        aux_width, width, 3, down=True, resample_filter=resample_filter, filter_after=True
                    )
                    aux_width = width
            for index in range(num_blocks):
                attention = resolution in attn_resolutions
                self.enc[f"{name}_block{index}"] = block(width, level_channels, attention=attention)
                width = level_channels
                skip_widths.append(width)

        self.dec = nn.ModuleDict()
        for level, (resolution, level_channels) in reversed(list(enumerate(zip(resolutions, channels, strict=True)))):
            name = f"{resolution}x{resolution}"
            if level == len(channels) - 1:
                self.dec[f"{name}_in0"] = block(width, width, attention=True)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                attention = index == num_blocks and resolution in attn_resolutions
                self.dec[f"{name}_block{index}"] = block(width + skip_widths.pop(), level_channels, attention=attention)
                width = level_channels
        name = f"{img_resolution}x{img_resolution}"
        self.dec[f"{name}_aux_norm"] = group_norm(width, _EPS)
        self.dec[f"{name}_aux_conv"] = Conv2d(width, img_channels, 3, gain=1e-5)

    def forward(
        self, x_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """Return F, shape (B, C, H, W).

        Raises:
            ValueError: Augmentation labels were given to a network built without ``augment_dim``.
        """
        emb_BE = self._embedding(c_noise_B, one_hot_BK, augment_labels_BA)
        hidden, aux = x_BCHW, x_BCHW
        skips: list[Tensor] = []
        for module in self.enc.values():
            if isinstance(module, UNetBlock):
                hidden = module(hidden, emb_BE)
                skips.append(hidden)
            elif not skips:
                hidden = module(hidden)
                skips.append(hidden)
            else:
                hidden = skips[-1] = aux = (hidden + module(aux)) * _SQRT_HALF
        for module in self.dec.values():
            if isinstance(module, UNetBlock):
                if hidden.shape[1] != module.in_channels:
                    hidden = torch.cat([hidden, skips.pop()], dim=1)
                hidden = module(hidden, emb_BE)
            elif isinstance(module, nn.GroupNorm):
                hidden = functional.silu(module(hidden))
            else:
                hidden = module(hidden)
        return hidden

    def _embedding(self, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None) -> Tensor:
        cosines, sines = self.map_noise(c_noise_B).chunk(2, dim=1)
        # These U-Nets were trained with the sines first.
        emb = torch.cat([sines, cosines], dim=1)
        if self.map_label is not None and one_hot_BK is not None:
            emb = emb + self.map_label(one_hot_BK * self.map_label.in_features**0.5)
        if augment_labels_BA is not None:
            if self.map_augment is None:
                raise ValueError("the network was built without augment_dim and takes no augmentation labels")
            emb = emb + self.map_augment(augment_labels_BA)
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(emb))))


class EDMPrecond(PreconditionedDenoiser):
    """The preconditioned SongUNet. 55.7 million parameters in the CIFAR-10 configurations."""

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        use_fp16: bool = False,
        sigma_data: float = 0.5,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        """Build the network, randomly initialised.

        Args:
            img_resolution: Height and width.
            img_channels: C.
            label_dim: Number of classes; 0 for an unconditional model.
            use_fp16: Samplers may let the U-Net compute in float16.
            sigma_data: Standard deviation of the data.
            augment_dim: Number of augmentation labels; 0 for no such input.
            model_channels: Channels of the first convolution.
            channel_mult: Factor on ``model_channels``, level by level; each level halves the resolution.
            channel_mult_emb: Factor that gives the width of the embedding.
            num_blocks: Blocks a level (the decoder has one more).
            attn_resolutions: Where blocks have self-attention.
            dropout: Probability in training mode.
            embedding_type: ``"positional"`` (DDPM++) or ``"fourier"`` (NCSN++).
            channel_mult_noise: Factor that gives the width of the noise embedding (1 DDPM++, 2 NCSN++).
            encoder_type: ``"standard"`` (DDPM++) or ``"residual"`` (NCSN++).
            resample_filter: Taps: [1, 1] (DDPM++) or [1, 3, 3, 1] (NCSN++).
        """
        super().__init__(
            SongUNet(
                img_resolution=img_resolution,
                img_channels=img_channels,
                label_dim=label_dim,
                augment_dim=augment_dim,
                model_channels=model_channels,
                channel_mult=channel_mult,
                channel_mult_emb=channel_mult_emb,
                num_blocks=num_blocks,
                attn_resolutions=attn_resolutions,
                dropout=dropout,
                embedding_type=embedding_type,
                channel_mult_noise=channel_mult_noise,
                encoder_type=encoder_type,
                resample_filter=resample_filter,
            ),
            img_resolution=img_resolution,
            img_channels=img_channels,
            label_dim=label_dim,
            sigma_data=sigma_data,
            use_fp16=use_fp16,
        )

"""The U-Net of ADM, keys as in the official EDM checkpoints.

Source: arXiv:2105.05233 (the architecture), arXiv:2206.00364, table 7 (EDM's configuration of it, for ImageNet-64).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.edm.embeddings import PositionalEmbedding
from ddo_engine.families.edm.layers import Conv2d, Linear, UNetBlock, group_norm, linear

_EPS = 1e-5


class DhariwalUNet(nn.Module):
    """F as ADM's U-Net.

    Args:
        img_resolution: Height and width.
        img_channels: C.
        label_dim: Number of classes; 0 for an unconditional model.
        augment_dim: Number of augmentation labels; 0 for no such input.
        model_channels: Channels that ``channel_mult`` multiplies.
        channel_mult: Level by level; each level halves the resolution.
        channel_mult_emb: Factor that gives the width of the embedding.
        num_blocks: Blocks a level (the decoder has one more).
        attn_resolutions: Where blocks have self-attention, with heads of 64 channels.
        dropout: Probability in training mode.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
    ) -> None:
        super().__init__()
        emb_channels = model_channels * channel_mult_emb
        levels = [(img_resolution >> level, model_channels * factor) for level, factor in enumerate(channel_mult)]

        self.map_noise = PositionalEmbedding(model_channels, endpoint=False)
        self.map_augment = linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = linear(model_channels, emb_channels)
        self.map_layer1 = linear(emb_channels, emb_channels)
        self.map_label = linear(label_dim, emb_channels, bias=False) if label_dim else None

        block = partial(UNetBlock, emb_channels=emb_channels, dropout=dropout, eps=_EPS)

        self.enc = nn.ModuleDict()
        width = levels[0][1]
        self.enc[f"{img_resolution}x{img_resolution}_conv"] = Conv2d(img_channels, width, 3)
        skip_widths = [width]
        for level, (resolution, level_width) in enumerate(levels):
            name = f"{resolution}x{resolution}"
            if level > 0:
                self.enc[f"{name}_down"] = block(width, width, down=True)
                skip_widths.append(width)
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = block(width, level_width, attention=resolution in attn_resolutions)
                width = level_width
                skip_widths.append(width)

        self.dec = nn.ModuleDict()
        for level, (resolution, level_width) in reversed(list(enumerate(levels))):
            name = f"{resolution}x{resolution}"
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = block(width, width, attention=True)
                self.dec[f"{name}_in1"] = block(width, width)
            else:
                self.dec[f"{name}_up"] = block(width, width, up=True)
            for index in range(num_blocks + 1):
                in_width = width + skip_widths.pop()
                self.dec[f"{name}_block{index}"] = block(
                    in_width, level_width, attention=resolution in attn_resolutions
                )
                width = level_width
        self.out_norm = group_norm(width, _EPS)
        self.out_conv = Conv2d(width, img_channels, 3)
        self._reset_parameters()

    def forward(
        self, x_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None
    ) -> Tensor:
        """Return F, shape (B, C, H, W), in the dtype of ``x_BCHW``; the embedding keeps that of ``c_noise_B``.

        Raises:
            ValueError: Augmentation labels were given to a network built without ``augment_dim``.
        """
        emb_BE = self._embedding(c_noise_B, one_hot_BK, augment_labels_BA)
        hidden = x_BCHW
        skips: list[Tensor] = []
        for module in self.enc.values():
            hidden = module(hidden, emb_BE) if isinstance(module, UNetBlock) else module(hidden)
            skips.append(hidden)
        for name, module in self.dec.items():
            if "_block" in name:
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = module(hidden, emb_BE)
        out: Tensor = self.out_conv(functional.silu(self.out_norm(hidden)))
        return out

    def _embedding(self, c_noise_B: Tensor, one_hot_BK: Tensor | None, augment_labels_BA: Tensor | None) -> Tensor:
        emb = self.map_noise(c_noise_B)
        if augment_labels_BA is not None:
            if self.map_augment is None:
                raise ValueError("the network was built without augment_dim and takes no augmentation labels")
            emb = emb + self.map_augment(augment_labels_BA)
        emb = self.map_layer1(functional.silu(self.map_layer0(emb)))
        if self.map_label is not None and one_hot_BK is not None:
            emb = emb + self.map_label(one_hot_BK)
        return functional.silu(emb)

    def _reset_parameters(self) -> None:
        """Initialise as ADM does: torch's own defaults, but residual branches and the output start at zero."""
        last = {self.out_conv}
        for module in self.modules():
            if isinstance(module, UNetBlock):
                last |= {module.conv1} | ({module.proj} if module.num_heads else set())
        for module in self.modules():
            if not isinstance(module, Conv2d | Linear) or module.weight is None:
                continue
            bound = 0 if module in last else module.weight[0].numel() ** -0.5
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.uniform_(module.bias, -bound, bound)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)
        if self.map_augment is not None:
            nn.init.zeros_(self.map_augment.weight)

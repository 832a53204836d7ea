"""The U-Net of EDM2, configuration G of arXiv:2312.02696, keys as in the official checkpoints.

Shapes: B batch, C channels, H height, W width, E embedding, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.edm2.layers import MPConv, MPFourier, mp_cat, mp_silu, mp_sum, normalise


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of a U-Net have in common.

    Attributes:
        resample_filter: Taps of the separable low-pass filter, even in number.
        channels_per_head: Width of an attention head.
        dropout: Probability, in training mode.
        res_balance: Share of the residual branch.
        attn_balance: Share of the attention's output.
        clip_act: Bound on the magnitude of a block's outputs; None for none.
    """

    resample_filter: Sequence[float] = (1, 1)
    channels_per_head: int = 64
    dropout: float = 0.0
    res_balance: float = 0.3
    attn_balance: float = 0.3
    clip_act: float | None = 256.0


def resample(x_BCHW: Tensor, taps: Sequence[float], direction: Literal["up", "down"]) -> Tensor:
    """Return the image at twice or half the resolution, low-pass filtered."""
    channels = x_BCHW.shape[1]
    row = torch.tensor(taps, dtype=torch.float32, device=x_BCHW.device)
    kernel = (row.outer(row) / row.sum() ** 2).to(x_BCHW.dtype).expand(channels, 1, -1, -1)
    padding = (len(taps) - 1) // 2
    if direction == "down":
        return functional.conv2d(x_BCHW, kernel, stride=2, padding=padding, groups=channels)
    # each output pixel sees a quarter of the taps
    return functional.conv_transpose2d(x_BCHW, kernel * 4, stride=2, padding=padding, groups=channels)


class Block(nn.Module):
    """Residual block of encoder or decoder, with optional resampling and self-attention.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        emb_channels: E.
        part: An encoder block widens and normalises its input before the residual branch, a decoder block widens it
            after.
        options: What it shares with the others.
        direction: Resample first.
        attention: Put self-attention behind the residual branch.

    Raises:
        ValueError: The channels do not divide into heads.

    Source: arXiv:2312.02696, figure 21 (blocks of configuration G).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        part: Literal["encoder", "decoder"],
        options: BlockOptions,
        *,
        direction: Literal["up", "down"] | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.part = part
        self.options = options
        self.direction = direction
        # Blocks narrower than a head have no attention, in the official code as well.
        self.num_heads = out_channels // options.channels_per_head if attention else 0
        if self.num_heads and out_channels % self.num_heads:
            raise ValueError(
                f"channels_per_head: {out_channels} channels do not divide into {self.num_heads} attention heads"
            )
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(out_channels if part == "encoder" else in_channels, out_channels, 3)
        self.emb_linear = MPConv(emb_channels, out_channels)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, out_channels * 3, 1) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, 1) if self.num_heads else None

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """Return the block's output, shape (B, out_channels, H', W'), in the dtype of ``x_BCHW``."""
        x = x_BCHW
        if self.direction is not None:
            x = resample(x, self.options.resample_filter, self.direction)
        if self.part == "encoder":
            x = normalise(self._widened(x), dim=1)
            x = mp_sum(x, self._residual(x, emb_BE), self.options.res_balance)
        else:
            x = mp_sum(self._widened(x), self._residual(x, emb_BE), self.options.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            mixed = self.attn_proj(self._attention(self.attn_qkv(x)))
            x = mp_sum(x, mixed, self.options.attn_balance)
        bound = self.options.clip_act
        return x if bound is None else x.clip(-bound, bound)

    def _widened(self, x: Tensor) -> Tensor:
        widened: Tensor = x if self.conv_skip is None else self.conv_skip(x)
        return widened

    def _residual(self, x: Tensor, emb_BE: Tensor) -> Tensor:
        hidden = self.conv_res0(mp_silu(x))
        # The embedding stays in float32 until it multiplies.
        scale_BO = self.emb_linear(emb_BE, gain=self.emb_gain) + 1
        hidden = mp_silu(hidden * scale_BO[:, :, None, None].to(hidden.dtype))
        out: Tensor = self.conv_res1(functional.dropout(hidden, self.options.dropout, self.training))
        return out

    def _attention(self, qkv_BCHW: Tensor) -> Tensor:
        B, C, H, W = qkv_BCHW.shape
        # The official layout of the 3C channels: head, channel of the head, one of q, k, v.
        heads = qkv_BCHW.reshape(B, self.num_heads, C // 3 // self.num_heads, 3, H * W)
        q, k, v = normalise(heads, dim=2).unbind(3)
        weights = (q.transpose(-2, -1) @ (k / math.sqrt(q.shape[2]))).softmax(dim=-1)
        return (v @ weights.transpose(-2, -1)).reshape(B, C // 3, H, W)


class UNet(nn.Module):
    """F, without biases and norms: magnitudes are kept by construction.

    Args:
        img_resolution: Height and width.
        img_channels: C.
        label_dim: K; 0 for an unconditional network.
        model_channels: Width that ``channel_mult`` multiplies.
        channel_mult: Level by level; each level halves the resolution.
        channel_mult_noise: Width of the noise embedding; None for that of the first level.
        channel_mult_emb: Width E of the final embedding; None for that of the widest level.
        num_blocks: Blocks a level (the decoder has one more).
        attn_resolutions: Where blocks have self-attention.
        label_balance: Share of the class embedding, against the noise embedding.
        concat_balance: Share of the skip connection, against the main path.
        options: Of the blocks.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        options: BlockOptions | None = None,
    ) -> None:
        super().__init__()
        options = options or BlockOptions()
        channels = [model_channels * multiplier for multiplier in channel_mult]
        levels = [(img_resolution >> level, width) for level, width in enumerate(channels)]
        noise_channels = channels[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        emb_channels = max(channels) if channel_mult_emb is None else model_channels * channel_mult_emb
        self.label_balance = label_balance
        self.concat_balance = concat_balance
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = MPFourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, emb_channels)
        self.emb_label = MPConv(label_dim, emb_channels) if label_dim else None

        self.enc = nn.ModuleDict()
        # One more channel, of ones, stands in for a bias.
        self.enc[f"{img_resolution}x{img_resolution}_conv"] = MPConv(img_channels + 1, channels[0], 3)
        width = channels[0]
        skip_widths = [width]
        for level, (resolution, level_width) in enumerate(levels):
            name = f"{resolution}x{resolution}"
            attention = resolution in attn_resolutions
            if level > 0:
                self.enc[f"{name}_down"] = Block(width, width, emb_channels, "encoder", options, direction="down")
                skip_widths.append(width)
            for index in range(num_blocks):
                self.enc[f"{name}_block{index}"] = Block(
                    width, level_width, emb_channels, "encoder", options, attention=attention
                )
                width = level_width
                skip_widths.append(width)

        self.dec = nn.ModuleDict()
        for level, (resolution, level_width) in reversed(list(enumerate(levels))):
            name = f"{resolution}x{resolution}"
            attention = resolution in attn_resolutions
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = Block(width, width, emb_channels, "decoder", options, attention=True)
                self.dec[f"{name}_in1"] = Block(width, width, emb_channels, "decoder", options)
            else:
                self.dec[f"{name}_up"] = Block(width, width, emb_channels, "decoder", options, direction="up")
            for index in range(num_blocks + 1):
                self.dec[f"{name}_block{index}"] = Block(
                    width + skip_widths.pop(), level_width, emb_channels, "decoder", options, attention=attention
                )
                width = level_width
        self.out_conv = MPConv(width, img_channels, 3)

    def forward(self, x_BCHW: Tensor, c_noise_B: Tensor, one_hot_BK: Tensor | None) -> Tensor:
        """Return F, shape (B, C, H, W), in the dtype of ``x_BCHW``; the embedding is computed in float32."""
        emb_BE = self._embedding(c_noise_B, one_hot_BK)
        hidden = torch.cat([x_BCHW, torch.ones_like(x_BCHW[:, :1])], dim=1)
        skips: list[Tensor] = []
        for module in self.enc.values():
            hidden = module(hidden, emb_BE) if isinstance(module, Block) else module(hidden)
            skips.append(hidden)
        for name, module in self.dec.items():
            if "_block" in name:
                hidden = mp_cat(hidden, skips.pop(), self.concat_balance)
            hidden = module(hidden, emb_BE)
        out: Tensor = self.out_conv(hidden, gain=self.out_gain)
        return out

    def _embedding(self, c_noise_B: Tensor, one_hot_BK: Tensor | None) -> Tensor:
        emb: Tensor = self.emb_noise(self.emb_fourier(c_noise_B))
        if self.emb_label is not None and one_hot_BK is not None:
            emb = mp_sum(emb, self.emb_label(one_hot_BK * math.sqrt(one_hot_BK.shape[1])), self.label_balance)
        return mp_silu(emb)

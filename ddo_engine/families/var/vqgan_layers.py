"""Building blocks of the tokenizer's encoder and decoder. Parameter names and shapes are those of the official files.

They are the blocks of VQGAN. Shapes: B batch, C channels, H height, W width.

Source: arXiv:2012.09841 (VQGAN), as used by arXiv:2404.02905 (VAR).
"""

import math

from torch import Tensor, nn
from torch.nn import functional


def group_norm(num_channels: int) -> nn.GroupNorm:
    """Return a group norm of 32 groups, as all official networks have it.

    Channels that 32 does not divide, which only small networks of our own have, get fewer groups, of at least four
    channels each.
    """
    num_groups = 32 if num_channels % 32 == 0 else math.gcd(num_channels // 4, 32)
    return nn.GroupNorm(num_groups, num_channels, eps=1e-6)


def convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the resolution."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


class ResnetBlock(nn.Module):
    """Two normalised convolutions beside a skip connection, 1x1 where the number of channels changes."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = group_norm(in_channels)
        self.conv1 = convolution(in_channels, out_channels)
        self.norm2 = group_norm(out_channels)
        self.conv2 = convolution(out_channels, out_channels)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the block's output, shape (B, out_channels, H, W)."""
        hidden = self.conv1(functional.silu(self.norm1(x_BCHW)))
        hidden = functional.dropout(functional.silu(self.norm2(hidden)), self.dropout, self.training)
        out: Tensor = self.nin_shortcut(x_BCHW) + self.conv2(hidden)
        return out


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the input plus what attention adds to it."""
        q, k, v = self.qkv(self.norm(x_BCHW)).flatten(2).transpose(1, 2)[:, None].chunk(3, dim=-1)
        mixed_BPC = functional.scaled_dot_product_attention(q, k, v)[:, 0]
        out: Tensor = x_BCHW + self.proj_out(mixed_BPC.transpose(1, 2).reshape(x_BCHW.shape))
        return out


class Downsample(nn.Module):
    """Half the resolution, by a strided convolution that pads right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return shape (B, C, H/2, W/2)."""
        out: Tensor = self.conv(functional.pad(x_BCHW, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Twice the resolution: every value repeated, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = convolution(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return shape (B, C, 2H, 2W)."""
        out: Tensor = self.conv(functional.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual blocks of one resolution, each followed by attention or not, and the change to the next."""

    def __init__(
        self, channels: list[int], *, dropout: float, attention: bool, down: bool = False, up: bool = False
    ) -> None:
        """Args: ``channels``, those of the input, then those behind every block."""
        super().__init__()
        outputs = channels[1:]
        self.block = nn.ModuleList(
            ResnetBlock(before, after, dropout) for before, after in zip(channels[:-1], outputs, strict=True)
        )
        self.attn = nn.ModuleList(AttentionBlock(width) for width in outputs if attention)
        self.downsample = Downsample(outputs[-1]) if down else None
        self.upsample = Upsample(outputs[-1]) if up else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the level's output."""
        for index, block in enumerate(self.block):
            x_BCHW = block(x_BCHW)
            if len(self.attn) > 0:
                x_BCHW = self.attn[index](x_BCHW)
        for resampling in (self.downsample, self.upsample):
            if resampling is not None:
                x_BCHW = resampling(x_BCHW)
        return x_BCHW


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them or not."""

    def __init__(self, channels: int, *, dropout: float, attention: bool) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout)
        self.attn_1 = AttentionBlock(channels) if attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, dropout)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the output, of the input's shape."""
        out: Tensor = self.block_2(self.attn_1(self.block_1(x_BCHW)))
        return out

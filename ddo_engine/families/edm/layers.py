"""Building blocks of the U-Nets. Parameter names and shapes are those of the official checkpoints.

Whatever dtype they are stored in, parameters take part in that of the activations, as in the official code: float16
activations meet float32 weights while sampling, and the other way round when a checkpoint stores float16.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """torch's, in the dtype of its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, shape (..., out_features)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, self.weight.to(x.dtype), bias)


class GroupNorm(nn.GroupNorm):
    """torch's, in the dtype of its input."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normalised image."""
        dtype = x_BCHW.dtype
        return functional.group_norm(x_BCHW, self.num_groups, self.weight.to(dtype), self.bias.to(dtype), self.eps)


def linear(in_features: int, out_features: int, *, bias: bool = True) -> Linear:
    """Return a linear layer with Xavier-uniform weights and zero bias."""
    layer = Linear(in_features, out_features, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def group_norm(num_channels: int, eps: float) -> GroupNorm:
    """Return a group norm with at least four channels a group and at most 32 groups."""
    return GroupNorm(min(32, num_channels // 4), num_channels, eps=eps)


class Conv2d(nn.Module):
    """Convolution with "same" padding, combined with resampling by 2 or not; without a kernel only the latter.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        kernel: Odd width of the kernel; 0 for none.
        up: Double the resolution, then convolve.
        down: Halve the resolution, then convolve.
        resample_filter: Taps of the separable low-pass filter, even in number.
        filter_after: With ``down``: convolve first, then filter and halve.
        gain: Factor on the Xavier-uniform initial weights.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        filter_after: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.up = up
        self.down = down
        self.filter_after = filter_after
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if kernel else None
        if self.weight is not None:
            nn.init.xavier_uniform_(self.weight, gain)
        taps = torch.tensor([float(tap) for tap in resample_filter])
        kernel_2d = (taps.outer(taps) / taps.sum() ** 2)[None, None]
        self.register_buffer("resample_filter", kernel_2d if up or down else None)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the image, convolved and resampled."""
        if self.resample_filter is None:
            return self._convolved(x_BCHW)
        margin = (self.resample_filter.shape[-1] - 1) // 2
        if self.filter_after:
            # The convolution also fills the filter's margin; zeros there would be another network at the borders.
            return self._resampled(self._convolved(x_BCHW, margin), self.resample_filter, padding=0)
        return self._convolved(self._resampled(x_BCHW, self.resample_filter, padding=margin))

    def _convolved(self, x: Tensor, margin: int = 0) -> Tensor:
        if self.weight is None:
            return x
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.conv2d(x, self.weight.to(x.dtype), bias, padding=self.weight.shape[-1] // 2 + margin)

    def _resampled(self, x: Tensor, resample_filter: Tensor, padding: int) -> Tensor:
        channels = x.shape[1]
        weight = resample_filter.to(x.dtype).expand(channels, 1, -1, -1)
        if self.up:
            # each output pixel sees a quarter of the taps
            return functional.conv_transpose2d(x, weight * 4, stride=2, padding=padding, groups=channels)
        return functional.conv2d(x, weight, stride=2, padding=padding, groups=channels)


class UNetBlock(nn.Module):
    """Residual block with noise-level embedding, optional resampling and optional self-attention.

    Args:
        in_channels: C of the input.
        out_channels: C of the output.
        emb_channels: Width of the embedding.
        up: Double the resolution.
        down: Halve the resolution.
        attention: Put self-attention behind the residual branch.
        num_heads: Attention heads; None: one per ``channels_per_head`` channels.
        channels_per_head: See there.
        dropout: Probability, in training mode.
        skip_scale: Factor on the sum of both branches, and again on the sum with the attention's output.
        eps: Of the group norms.
        resample_filter: Taps of the low-pass filter.
        resample_proj: Put a 1x1 convolution into the skip branch of a resampling block.
        adaptive_scale: The embedding scales and shifts; otherwise it is added.

    Raises:
        ValueError: The channels do not divide into heads, or into the groups of a norm.

    Source: arXiv:2206.00364, appendix F (configurations of table 7).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        num_heads: int | None = None,
        channels_per_head: int = 64,
        dropout: float = 0.0,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = False,
        adaptive_scale: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_heads = (num_heads or out_channels // channels_per_head) if attention else 0
        if self.num_heads and out_channels % self.num_heads:
            raise ValueError(f"{out_channels} channels do not divide into {self.num_heads} attention heads")
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive_scale = adaptive_scale

        self.norm0 = group_norm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, up=up, down=down, resample_filter=resample_filter)
        self.affine = linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = group_norm(out_channels, eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, gain=1e-5)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, up=up, down=down, resample_filter=resample_filter)
        if self.num_heads:
            self.norm2 = group_norm(out_channels, eps)
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, gain=0.2**0.5)
            self.proj = Conv2d(out_channels, out_channels, 1, gain=1e-5)

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """Return the block's output, shape (B, out_channels, H', W')."""
        hidden = self.conv0(functional.silu(self.norm0(x_BCHW)))
        modulation = self.affine(emb_BE)[:, :, None, None].to(hidden.dtype)
        if self.adaptive_scale:
            scale, shift = modulation.chunk(2, dim=1)
            hidden = functional.silu(shift + self.norm1(hidden) * (scale + 1))
        else:
            hidden = functional.silu(self.norm1(hidden + modulation))
        hidden = self.conv1(functional.dropout(hidden, self.dropout, self.training))
        out: Tensor = (hidden + (x_BCHW if self.skip is None else self.skip(x_BCHW))) * self.skip_scale
        if self.num_heads:
            out = (out + self.proj(self._attention(out))) * self.skip_scale
        return out

    def _attention(self, x_BCHW: Tensor) -> Tensor:
        B, C, H, W = x_BCHW.shape
        # The official layout of the 3C channels: head, channel of the head, one of q, k, v.
        qkv = self.qkv(self.norm2(x_BCHW)).reshape(B, self.num_heads, C // self.num_heads, 3, H * W)
        q, k, v = qkv.unbind(3)
        # Logits and softmax in float32, as in the official code: float16 would overflow.
        q, k = q.to(torch.float32), (k / k.shape[2] ** 0.5).to(torch.float32)
        weights = (q.transpose(-2, -1) @ k).softmax(dim=-1).to(v.dtype)
        mixed: Tensor = v @ weights.transpose(-2, -1)
        return mixed.reshape(B, C, H, W)

"""Embeddings of the noise level. Shapes: B batch."""

import math

import torch
from torch import Tensor, nn


class PositionalEmbedding(nn.Module):
    """Cosines and sines of the noise level at geometrically spaced frequencies from 1 down to 1e-4.

    Source: arXiv:2006.11239; EDM spaces the frequencies so that the lowest one is reached exactly.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels

    def forward(self, c_noise_B: Tensor) -> Tensor:
        """Return the embedding, shape (B, num_channels): cosines, then sines."""
        half = self.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=c_noise_B.device) / max(half - 1, 1)
        angles = c_noise_B.outer((1 / 10000) ** exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Cosines and sines of the noise level at random, fixed frequencies (arXiv:2006.10739)."""

    freqs: Tensor

    def __init__(self, num_channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(num_channels // 2) * scale)

    def forward(self, c_noise_B: Tensor) -> Tensor:
        """Return the embedding, shape (B, num_channels): cosines, then sines."""
        angles = c_noise_B.outer(2 * math.pi * self.freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)

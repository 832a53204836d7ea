"""Embeddings of the noise level. Shapes: B batch."""

import math

import torch
from torch import Tensor, nn


class PositionalEmbedding(nn.Module):
    """Cosines and sines of the noise level at geometrically spaced frequencies from 1 down to 1e-4.

    Args:
        num_channels: Width of the embedding.
        endpoint: The lowest frequency is reached exactly (DDPM++), or just not (ADM).

    Source: arXiv:2006.11239.
    """

    def __init__(self, num_channels: int, *, endpoint: bool = True) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.endpoint = endpoint

    def forward(self, c_noise_B: Tensor) -> Tensor:
        """Return the embedding, shape (B, num_channels): cosines, then sines."""
        half = self.num_channels // 2
        exponents = torch.arange(half, dtype=torch.float32, device=c_noise_B.device)
        exponents = exponents / (max(half - 1, 1) if self.endpoint else half)
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
        angles = c_noise_B.outer(2 * math.pi * self.freqs.to(c_noise_B.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)

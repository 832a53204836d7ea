"""The multi-scale residual quantiser: features as token maps from coarse to fine.

Shapes: B batch, C channels of the features, h and w their height and width (the side of the finest map), S scales,
n the side of one scale's map, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ddo_engine.families.var.vqgan_layers import convolution


@dataclass(frozen=True)
class Quantisation:
    """What quantising features gives, one entry a scale.

    Attributes:
        tokens: int64 indices into the codebook, (B, n^2), row by row.
        f_hats: What the tokens up to and including this scale say about the features, (B, C, h, w).
    """

    tokens: list[Tensor]
    f_hats: list[Tensor]


class SharedPhi(nn.Module):
    """The convolutions ``phi(h) = (1 - r) h + r conv(h)`` behind the codebook, fewer of them than scales.

    Scale k of S takes the convolution whose tick is nearest to ``k / (S - 1)``; ticks are spread evenly over [0, 1],
    the outer ones a third of a spacing from its ends where there are four (all official checkpoints), else half of
    one.

    Source: arXiv:2404.02905, section 3.2 and algorithm 1.
    """

    def __init__(self, channels: int, num_convolutions: int, residual_ratio: float) -> None:
        super().__init__()
        self.residual_ratio = residual_ratio
        self.qresi_ls = nn.ModuleList(convolution(channels, channels) for _ in range(num_convolutions))

    def forward(self, h_BChw: Tensor, position: float) -> Tensor:
        """Return phi of a scale's upsampled embeddings; ``position`` is ``k / (S - 1)``."""
        convolved: Tensor = self.qresi_ls[self.index(position)](h_BChw)
        return h_BChw * (1 - self.residual_ratio) + convolved * self.residual_ratio

    def index(self, position: float) -> int:
        """Return which convolution a scale takes.

        In NumPy's arithmetic, because the middle one of five scales lies between two ticks: rounding decides, and
        checkpoints were trained with its decision.
        """
        count = len(self.qresi_ls)
        margin = 1 / 3 / count if count == 4 else 1 / 2 / count
        ticks = np.linspace(margin, 1 - margin, count)
        return int(np.abs(ticks - position).argmin())


class MultiScaleQuantizer(nn.Module):
    """Codebook, phi, and the way between features and token maps.

    Attributes:
        patch_nums: Side of each scale's map, increasing.

    Source: arXiv:2404.02905, algorithms 1 and 2.
    """

    ema_vocab_hit_SV: Tensor

    def __init__(
        self,
        vocab_size: int,
        channels: int,
        patch_nums: Sequence[int],
        *,
        num_convolutions: int,
        residual_ratio: float,
    ) -> None:
        super().__init__()
        self.patch_nums = tuple(patch_nums)
        # How often training hit each entry: part of the official files, and of no use here.
        self.register_buffer("ema_vocab_hit_SV", torch.zeros(len(self.patch_nums), vocab_size))
        self.quant_resi = SharedPhi(channels, num_convolutions, residual_ratio)
        self.embedding = nn.Embedding(vocab_size, channels)
        nn.init.uniform_(self.embedding.weight, -1 / vocab_size, 1 / vocab_size)

    def quantise(self, f_BChw: Tensor) -> Quantisation:
        """Quantise features scale by scale, each scale what the coarser ones have left over.

        Gradients reach the codebook and phi through ``f_hats``, not the features: add a straight-through term for
        these.

        Source: arXiv:2404.02905, algorithm 1.
        """
        rest = f_BChw.detach()
        f_hat = torch.zeros_like(rest)
        result = Quantisation([], [])
        for scale in range(len(self.patch_nums)):
            tokens_Bl = self._nearest(self.at_scale(rest, scale))
            h_BChw = self.embed(tokens_Bl, scale)
            f_hat = f_hat + h_BChw
            rest = rest - h_BChw.detach()
            result.tokens.append(tokens_Bl)
            result.f_hats.append(f_hat)
        return result

    def embed(self, tokens_Bl: Tensor, scale: int) -> Tensor:
        """Return what a scale's tokens add to the features, shape (B, C, h, w).

        Source: arXiv:2404.02905, algorithm 2.
        """
        side, finest = self.patch_nums[scale], self.patch_nums[-1]
        h = self.embedding(tokens_Bl).transpose(1, 2).reshape(len(tokens_Bl), -1, side, side)
        if scale < len(self.patch_nums) - 1:
            h = functional.interpolate(h, size=(finest, finest), mode="bicubic")
        phi: Tensor = self.quant_resi(h, scale / (len(self.patch_nums) - 1))
        return phi

    def at_scale(self, f_BChw: Tensor, scale: int) -> Tensor:
        """Return features at a scale's resolution, as rows: (B, n^2, C)."""
        side = self.patch_nums[scale]
        if scale < len(self.patch_nums) - 1:
            f_BChw = functional.interpolate(f_BChw, size=(side, side), mode="area")
        return f_BChw.flatten(2).transpose(1, 2)

    @torch.no_grad()
    def _nearest(self, f_BlC: Tensor) -> Tensor:
        codebook_VC = self.embedding.weight
        # ‖f − e‖² without ‖f‖², which all entries share and whose rounding would only blur the comparison.
        distance = torch.addmm(codebook_VC.square().sum(1), f_BlC.flatten(0, 1), codebook_VC.T, alpha=-2)
        return distance.argmin(1).reshape(f_BlC.shape[:2])

"""Blocks of VAR's transformer. Parameter names and shapes are those of the official files.

Shapes: B batch, L tokens, C embedding, N heads, D channels of a head (C = N D).

Source: arXiv:2404.02905, section 3.3 and appendix (AdaLN, attention with normalised queries and keys).
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_LOG_SCALE = math.log(100)


class KeyValueCache:
    """Keys and values of one block's earlier scales, while an image is sampled."""

    def __init__(self) -> None:
        self._stored: tuple[Tensor, Tensor] | None = None

    def extend(self, k_BNLD: Tensor, v_BNLD: Tensor) -> tuple[Tensor, Tensor]:
        """Add those of the scale at hand and return all of them."""
        if self._stored is not None:
            k_BNLD, v_BNLD = (
                torch.cat([earlier, new], dim=2) for earlier, new in zip(self._stored, (k_BNLD, v_BNLD), strict=True)
            )
        self._stored = (k_BNLD, v_BNLD)
        return self._stored


class SelfAttention(nn.Module):
    """Multi-head attention whose queries and keys have unit length; each head learns its own scale, at most 100."""

    zero_k_bias: Tensor

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, num_heads, 1, 1), math.log(4)))
        self.q_bias = nn.Parameter(torch.zeros(embed_dim))
        self.v_bias = nn.Parameter(torch.zeros(embed_dim))
        # A bias on keys would change nothing but for their normalisation; the official files have one that stays zero.
        self.register_buffer("zero_k_bias", torch.zeros(embed_dim))
        self.mat_qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, x_BLC: Tensor, bias_11LL: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """Return what the tokens attend to, shape (B, L, C).

        Args:
            x_BLC: The tokens.
            bias_11LL: Added to the attention's logits; None where every token sees every other.
            cache: Of earlier tokens, which all of ``x`` see.
        """
        B, L, _ = x_BLC.shape
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        qkv = functional.linear(x_BLC, self.mat_qkv.weight, bias).reshape(B, L, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = functional.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(MAX_LOG_SCALE).exp()
        k = functional.normalize(k, dim=-1)
        if cache is not None:
            k, v = cache.extend(k, v)
        mask = None if bias_11LL is None else bias_11LL.to(q.dtype)
        mixed_BNLD = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        out: Tensor = self.proj(mixed_BNLD.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linear layers around GELU, in its tanh approximation."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x_BLC: Tensor) -> Tensor:
        """Return shape (B, L, C)."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(x_BLC), approximate="tanh"))
        return out


class Modulation(nn.Sequential):
    """``num_vectors`` vectors per image, a linear function of ``silu(condition)``."""

    def __init__(self, embed_dim: int, num_vectors: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(embed_dim, num_vectors * embed_dim))
        self.num_vectors = num_vectors

    def forward(self, condition_BC: Tensor) -> Tensor:
        """Return shape (num_vectors, B, 1, C): made to be unpacked and multiplied with tokens."""
        vectors: Tensor = self.linear(functional.silu(condition_BC))
        return vectors.reshape(len(condition_BC), self.num_vectors, 1, -1).transpose(0, 1)

    @property
    def linear(self) -> nn.Linear:
        """The layer with the weights."""
        return cast("nn.Linear", self[1])


def modulated(x_BLC: Tensor, scale_B1C: Tensor, shift_B1C: Tensor, eps: float) -> Tensor:
    """Return ``(1 + scale) LayerNorm(x) + shift``; the norm itself has no weights."""
    return functional.layer_norm(x_BLC, x_BLC.shape[-1:], eps=eps) * (scale_B1C + 1) + shift_B1C


class Block(nn.Module):
    """Attention and feed-forward, both normalised, shifted, scaled and gated by the class."""

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        self.attn = SelfAttention(embed_dim, num_heads)
        self.ffn = FeedForward(embed_dim, hidden_dim)
        self.ada_lin = Modulation(embed_dim, 6)

    def forward(
        self, x_BLC: Tensor, modulation_6B1C: Tensor, bias_11LL: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """Return the tokens with the block's updates. ``modulation_6B1C`` is what ``ada_lin`` makes of the class."""
        gate_attn, gate_ffn, scale_attn, scale_ffn, shift_attn, shift_ffn = modulation_6B1C
        from_attention: Tensor = self.attn(modulated(x_BLC, scale_attn, shift_attn, self.norm_eps), bias_11LL, cache)
        x_BLC = x_BLC + from_attention * gate_attn
        from_ffn: Tensor = self.ffn(modulated(x_BLC, scale_ffn, shift_ffn, self.norm_eps))
        out: Tensor = x_BLC + from_ffn * gate_ffn
        return out


class HeadNorm(nn.Module):
    """The norm before the output, scaled and shifted by the class."""

    def __init__(self, embed_dim: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_eps = norm_eps
        self.ada_lin = Modulation(embed_dim, 2)

    def forward(self, x_BLC: Tensor, condition_BC: Tensor) -> Tensor:
        """Return shape (B, L, C)."""
        scale, shift = self.ada_lin(condition_BC)
        return modulated(x_BLC, scale, shift, self.norm_eps)

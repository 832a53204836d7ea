"""Operations and layers that preserve magnitudes: unit variance in, unit variance out.

Shapes: B batch, C channels, H height, W width, O outputs, E embedding. Parameter names and shapes are those of the
official checkpoints. Source of all of it: arXiv:2312.02696, appendix B.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-4
_SILU_STD = 0.596  # of silu(x), x ~ N(0, 1)


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in float32, or in float64 if that is what it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def magnitude(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the root mean square over ``dim``, kept as 1, plus 1e-4; float32 or wider, whatever ``x`` is."""
    wide = torch.promote_types(x.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=wide)
    # Counted from shapes: a process may have no row of a weight. In a list: torch compiles no generator.
    num_values = math.prod([x.shape[each] for each in ((dim,) if isinstance(dim, int) else dim)])
    return norm * math.sqrt(1 / num_values) + _EPS


def normalise(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return ``x`` at unit magnitude over ``dim``, in its own dtype."""
    return x / magnitude(x, dim).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Return SiLU at unit variance (eq. 81)."""
    return functional.silu(x) / _SILU_STD


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the blend of ``a`` (share 1 - t) and ``b`` (share t), uncorrelated, at unit variance (eq. 88)."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a_BCHW: Tensor, b_BCHW: Tensor, t: float) -> Tensor:
    """Concatenate channels so that ``b`` contributes the share t of the magnitude, whatever their numbers (eq. 103)."""
    num_a, num_b = a_BCHW.shape[1], b_BCHW.shape[1]
    scale = math.sqrt((num_a + num_b) / ((1 - t) ** 2 + t**2))
    return torch.cat(
        [a_BCHW * (scale * (1 - t) / math.sqrt(num_a)), b_BCHW * (scale * t / math.sqrt(num_b))],
        dim=1,
    )


class MPFourier(nn.Module):
    """Cosines of the noise level at random, fixed frequencies and phases, at unit variance (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(num_channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_channels))

    def forward(self, c_noise_B: Tensor) -> Tensor:
        """Return the embedding, shape (B, num_channels), float32 or wider."""
        angles = widened(c_noise_B).outer(widened(self.freqs)) + widened(self.phases)
        return angles.cos() * math.sqrt(2)


class MPConv(nn.Module):
    """Linear layer or convolution, without bias, whose weights only matter up to the magnitude of every row.

    In training mode, a forward pass also overwrites the stored weight by the normalised one, as in the official code.

    Args:
        in_channels: C of the input.
        out_channels: O.
        kernel: Odd width of the kernel; None for a linear layer.

    Source: arXiv:2312.02696, eqs. 47 and 66 and algorithm 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int | None = None) -> None:
        super().__init__()
        window = () if kernel is None else (kernel, kernel)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *window))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Return ``gain`` times the output, computed in the dtype of ``x``.

        Args:
            x: Shape (B, C) or (B, C, H, W).
            gain: A number, or a 0-dimensional parameter: its quotient is rounded to its own dtype, so that one stored
                in float16 acts as in the official code.
        """
        weight = self._effective_weight(gain).to(x.dtype)
        if weight.ndim == 2:
            return functional.linear(x, weight)
        return functional.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def _effective_weight(self, gain: Tensor | float) -> Tensor:
        if self.training:
            self.normalise_()
        weight = widened(self.weight)
        # One factor a row, so that weights are gone through once; they are most of the work of a small batch.
        return weight * ((gain / math.sqrt(weight[0].numel())) / magnitude(weight, self._row))

    @torch.no_grad()
    def normalise_(self) -> None:
        """Overwrite the stored weight by the normalised one."""
        self.weight.copy_(normalise(widened(self.weight), self._row))

    @property
    def _row(self) -> tuple[int, ...]:
        return tuple(range(1, self.weight.ndim))

"""Heun's method on the probability-flow ODE, and the random streams of its samples.

Shapes: B batch, C channels, H height, W width, N steps.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ddo_engine.spec import SamplerSettings


class SampleStreams:
    """One random stream per sample, so that image i depends on seed i alone and not on its batch.

    A stream is a CPU generator seeded with the sample's seed. It gives, in this order: the latent, the label (of a
    conditional model, whether used or not), the churn noise of each step (only if there is churn).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normals of shape (B, *shape)."""
        return torch.stack([torch.randn(*shape, generator=g, dtype=dtype) for g in self._generators])

    def integers(self, stop: int) -> Tensor:
        """Return int64 draws from 0 … stop − 1, shape (B,)."""
        return torch.stack([torch.randint(stop, (), generator=g) for g in self._generators])


def noise_levels(sampler: SamplerSettings) -> list[float]:
    """Return the N noise levels from sigma_max down to sigma_min, and a final 0.

    Source: arXiv:2206.00364, eq. 5.
    """
    first, last = sampler.sigma_max ** (1 / sampler.rho), sampler.sigma_min ** (1 / sampler.rho)
    steps = [(first + i / (sampler.num_steps - 1) * (last - first)) ** sampler.rho for i in range(sampler.num_steps)]
    return [*steps, 0.0]


def heun(
    denoise: Callable[[Tensor, Tensor], Tensor],
    latents_BCHW: Tensor,
    sampler: SamplerSettings,
    *,
    churn_noise: Callable[[], Tensor],
    on_call: Callable[[int], None] | None = None,
) -> Tensor:
    """Integrate from noise to images with a float64 state.

    Args:
        denoise: D(x_BCHW, sigma_B), called with float32 tensors.
        latents_BCHW: Standard normal.
        sampler: Steps, noise levels and churn.
        churn_noise: Gives standard normals of the latents' shape. Called once a step, also in steps outside
            [S_min, S_max], and not at all when ``S_churn`` is 0.
        on_call: Called with the number of finished network calls.

    Returns:
        float64, shape (B, C, H, W).

    Source: arXiv:2206.00364, algorithm 2.
    """
    num_calls = 0

    def slope(x: Tensor, sigma: float) -> Tensor:
        nonlocal num_calls
        sigma_B = torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
        denoised = denoise(x.to(torch.float32), sigma_B).to(torch.float64)
        num_calls += 1
        if on_call is not None:
            on_call(num_calls)
        return (x - denoised) / sigma

    levels = noise_levels(sampler)
    x = latents_BCHW.to(torch.float64) * levels[0]
    for sigma, sigma_next in pairwise(levels):
        sigma_hat = sigma * (1 + _gamma(sigma, sampler))
        if sampler.S_churn > 0:
            x = x + math.sqrt(sigma_hat**2 - sigma**2) * sampler.S_noise * churn_noise().to(x)
        slope_here = slope(x, sigma_hat)
        x_next = x + (sigma_next - sigma_hat) * slope_here
        if sigma_next > 0:
            x_next = x + (sigma_next - sigma_hat) * (slope_here + slope(x_next, sigma_next)) / 2
        x = x_next
    return x


def quantise(x_BCHW: Tensor) -> Tensor:
    """Map images in [-1, 1] to uint8 as EDM does: ``127.5 x + 128``, clipped and truncated."""
    return (x_BCHW * 127.5 + 128).clip(0, 255).to(torch.uint8)


def _gamma(sigma: float, sampler: SamplerSettings) -> float:
    upper = math.inf if sampler.S_max is None else sampler.S_max
    if not sampler.S_min <= sigma <= upper:
        return 0.0
    return min(sampler.S_churn / sampler.num_steps, math.sqrt(2) - 1)

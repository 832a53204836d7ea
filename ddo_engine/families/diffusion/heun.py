"""Heun's method on the probability-flow ODE.

Shapes: B batch, C channels, H height, W width, N steps.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from ddo_engine.errors import InvalidSpec
from ddo_engine.spec import DPMSolverSettings, HeunSettings


def power_spaced(sampler: HeunSettings | DPMSolverSettings, num_levels: int, dtype: torch.dtype) -> Tensor:
    """Return noise levels from sigma_max down to sigma_min, equally spaced in ``sigma^(1/rho)``, computed in ``dtype``.

    Raises:
        InvalidSpec: ``dtype`` cannot tell them apart.

    Source: arXiv:2206.00364, eq. 5.
    """
    first, last = sampler.sigma_max ** (1 / sampler.rho), sampler.sigma_min ** (1 / sampler.rho)
    steps = torch.arange(num_levels, dtype=dtype)
    levels: Tensor = (first + steps / (num_levels - 1) * (last - first)) ** sampler.rho
    if not bool((levels > 0).all() & (levels.diff() < 0).all()):
        raise InvalidSpec(
            f"sampler.rho: {num_levels} noise levels from {sampler.sigma_max:g} to {sampler.sigma_min:g} at rho = "
            f"{sampler.rho:g} do not all differ in {dtype}: choose EDM's rho of 7, or fewer steps",
            param="sampler.rho",
        )
    return levels


def noise_levels(sampler: HeunSettings) -> Tensor:
    """Return the N noise levels of the steps, and a final 0, in ``sampler.state_dtype``, on the CPU.

    Rounded like the state: over few steps from 80 to 0.002, float32 images are no others' but with float32 levels.
    """
    levels = power_spaced(sampler, sampler.num_steps, getattr(torch, sampler.state_dtype))
    return torch.cat([levels, levels.new_zeros(1)])


def heun(
    denoise: Callable[[Tensor, Tensor], Tensor],
    latents_BCHW: Tensor,
    sampler: HeunSettings,
    *,
    churn_noise: Callable[[], Tensor],
    on_call: Callable[[int], None] | None = None,
) -> Tensor:
    """Integrate from noise to images.

    Args:
        denoise: D(x_BCHW, sigma_B), called with float32 tensors.
        latents_BCHW: Standard normal.
        sampler: Steps, noise levels and churn.
        churn_noise: Gives standard normals of the latents' shape. Called once a step, also in steps outside
            [S_min, S_max], and not at all when ``S_churn`` is 0.
        on_call: Called with the number of finished network calls.

    Returns:
        In ``sampler.state_dtype``, shape (B, C, H, W).

    Source: arXiv:2206.00364, algorithm 2.
    """
    num_calls = 0
    state_dtype = getattr(torch, sampler.state_dtype)

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal num_calls
        sigma_B = torch.full((x.shape[0],), float(sigma), dtype=torch.float32, device=x.device)
        denoised = denoise(x.to(torch.float32), sigma_B).to(state_dtype)
        num_calls += 1
        if on_call is not None:
            on_call(num_calls)
        return (x - denoised) / sigma

    levels = noise_levels(sampler)
    x = latents_BCHW.to(state_dtype) * levels[0]
    for sigma, sigma_next in pairwise(levels):
        sigma_hat = sigma + _gamma(float(sigma), sampler) * sigma
        if sampler.S_churn > 0:
            x = x + (sigma_hat**2 - sigma**2).sqrt() * sampler.S_noise * churn_noise().to(x)
        slope_here = slope(x, sigma_hat)
        x_next = x + (sigma_next - sigma_hat) * slope_here
        if sigma_next > 0:
            x_next = x + (sigma_next - sigma_hat) * (slope_here + slope(x_next, sigma_next)) / 2
        x = x_next
    return x


def _gamma(sigma: float, sampler: HeunSettings) -> float:
    upper = math.inf if sampler.S_max is None else sampler.S_max
    if not sampler.S_min <= sigma <= upper:
        return 0.0
    return min(sampler.S_churn / sampler.num_steps, math.sqrt(2) - 1)

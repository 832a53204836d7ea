"""DPM-Solver-v3 without training: a second-order multistep predictor-corrector in ``lambda = -ln sigma``.

With the trivial coefficients l = 1, s = b = 0 the method predicts the denoised image D, and between two steps solves

    x_t = e^-h x_s + e^-h ∫_s^t e^(λ - λ_s) (D_s + D'_s (λ - λ_s)) dλ,      h = λ_t - λ_s

exactly but for the integral, which is taken by the trapezoid rule on a uniform grid: it is part of the method, whose
general coefficients exist on that grid only.

Source: arXiv:2310.13268.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddo_engine.errors import InvalidSpec
from ddo_engine.families.diffusion.heun import power_spaced
from ddo_engine.spec import DPMSolverSettings

NUM_INTERVALS = 250  # of the uniform grid in lambda


@dataclass(frozen=True)
class StepGrid:
    """The nodes of a run.

    Attributes:
        lambdas: The uniform grid, ``NUM_INTERVALS + 1`` values, ascending.
        indexes: Nodes of the steps on it: N + 1 values for N steps.
    """

    lambdas: tuple[float, ...]
    indexes: tuple[int, ...]

    @classmethod
    def of(cls, sampler: DPMSolverSettings) -> "StepGrid":
        """Snap the power-spaced noise levels to the grid.

        Raises:
            InvalidSpec: So many steps that two of them fall on one node of the grid.
        """
        first, last = -math.log(sampler.sigma_max), -math.log(sampler.sigma_min)
        width = (last - first) / NUM_INTERVALS
        lambdas = tuple(first + k * width for k in range(NUM_INTERVALS + 1))
        levels = power_spaced(sampler, sampler.num_steps + 1, torch.float64).tolist()
        indexes = tuple(round((-math.log(level) - first) / width) for level in levels)
        if len(set(indexes)) < len(indexes):
            raise InvalidSpec(
                f"sampler.num_steps: {sampler.num_steps} steps do not fit on {NUM_INTERVALS} intervals: lower it",
                param="sampler.num_steps",
            )
        return cls(lambdas, indexes)

    def integral(self, start: int, stop: int, power: int) -> float:
        """Return ``∫ e^(λ - λ_s) (λ - λ_s)^power dλ`` from node ``start`` (λ_s) to ``stop``, by the trapezoid rule."""
        offsets = [self.lambdas[k] - self.lambdas[start] for k in range(start, stop + 1)]
        values = [math.exp(offset) * offset**power for offset in offsets]
        width = self.lambdas[1] - self.lambdas[0]
        return width * (sum(values) - (values[0] + values[-1]) / 2)


def dpm_solver_v3(
    denoise: Callable[[Tensor, Tensor], Tensor],
    latents_BCHW: Tensor,
    sampler: DPMSolverSettings,
    *,
    on_call: Callable[[int], None] | None = None,
) -> Tensor:
    """Integrate from noise to images with a float64 state.

    Args:
        denoise: D(x_BCHW, sigma_B), called with float32 tensors, ``num_steps`` times.
        latents_BCHW: Standard normal.
        sampler: Steps and noise levels.
        on_call: Called with the number of finished network calls.

    Returns:
        float64, shape (B, C, H, W), at noise level ``sigma_min``: there is no last denoising step.

    Raises:
        InvalidSpec: See :meth:`StepGrid.of`.
    """
    grid = StepGrid.of(sampler)
    x = latents_BCHW.to(torch.float64) * sampler.sigma_max
    before: _Node | None = None
    for step, index in enumerate(grid.indexes[:-1]):
        sigma = math.exp(-grid.lambdas[index])
        sigma_B = torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
        denoised = denoise(x.to(torch.float32), sigma_B).to(torch.float64)
        if on_call is not None:
            on_call(step + 1)
        if before is not None and before.order == 2:
            # The corrector: the last step again, its slope now known at both ends.
            x = _advance(grid, before, index, _slope(grid, before, index, denoised))
        # The first step knows no slope, and the last one goes without for stability.
        order = 1 if before is None or step == sampler.num_steps - 1 else 2
        node = _Node(index, x, denoised, order)
        slope = _slope(grid, node, before.index, before.denoised) if before is not None and order == 2 else None
        x = _advance(grid, node, grid.indexes[step + 1], slope)
        before = node
    return x


@dataclass(frozen=True)
class _Node:
    """Where a step starts: x and D there, and the order of the step that leaves it."""

    index: int
    x: Tensor
    denoised: Tensor
    order: int


def _slope(grid: StepGrid, node: _Node, other_index: int, other_denoised: Tensor) -> Tensor:
    return (other_denoised - node.denoised) / (grid.lambdas[other_index] - grid.lambdas[node.index])


def _advance(grid: StepGrid, node: _Node, stop: int, slope: Tensor | None) -> Tensor:
    decay = math.exp(grid.lambdas[node.index] - grid.lambdas[stop])
    x = decay * node.x + decay * grid.integral(node.index, stop, 0) * node.denoised
    return x if slope is None else x + decay * grid.integral(node.index, stop, 1) * slope

"""Exponential moving average of weights, its memory given as a half-life in thousands of images."""

import torch
from torch import nn


def ema_decay(batch_size: int, half_life_kimg: float) -> float:
    """Return the factor by which one step of ``batch_size`` images shrinks the average's past.

    Source: arXiv:2206.00364, table 7 (EMA half-life), without its ramp-up.
    """
    return float(0.5 ** (batch_size / (half_life_kimg * 1000)))


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged parameters towards the model's; buffers are not averaged but copied.

    Args:
        ema_model: Changed in place; same architecture, dtype and device as ``model``.
        model: The model being trained.
        decay: Share of the old average that stays, in [0, 1].
    """
    torch._foreach_lerp_(list(ema_model.parameters()), list(model.parameters()), 1 - decay)
    for averaged, current in zip(ema_model.buffers(), model.buffers(), strict=True):
        averaged.copy_(current)

"""From gradients to new weights: Adam, its weight decay, and what is done to gradients before.

Shapes: none; everything here is a parameter, or the gradient of one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ddo_engine.families.protocol import Family
from ddo_engine.learning_rate import learning_rate_at, weight_decay_at
from ddo_engine.spec import TrainingSettings

LARGEST_REPLACEMENT = 1e5  # of EDM's training code


def make_optimizer(family: Family, model: nn.Module, training: TrainingSettings) -> torch.optim.AdamW:
    """Return Adam over the model's parameters; with weight decay, those that do not decay are a group of their own.

    Args:
        family: Says which weights decay.
        model: On the device that trains.
        training: Adam's settings. Rate and decay of a step are set by :func:`set_rates`.
    """
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[training.weight_decay > 0 and family.decays(name, parameter)].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "decays": decays} for decays, parameters in groups.items() if parameters],
        lr=training.learning_rate,
        betas=training.adam_betas,
        eps=training.adam_eps,
        weight_decay=0.0,
        fused=True,
    )


def set_rates(optimizer: torch.optim.Optimizer, step: int, training: TrainingSettings) -> None:
    """Set learning rate and weight decay of optimizer step ``step`` (0-based)."""
    learning_rate, weight_decay = learning_rate_at(step, training), weight_decay_at(step, training)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


@torch.no_grad()
def replace_non_finite_(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace NaN by 0 and infinities by ±1e5, in place.

    Args:
        gradients: By name.

    Returns:
        How many values of each were replaced, 0-dim int64.
    """
    num_replaced = {name: (~torch.isfinite(gradient)).sum() for name, gradient in gradients.items()}
    for gradient in gradients.values():
        torch.nan_to_num(gradient, nan=0, posinf=LARGEST_REPLACEMENT, neginf=-LARGEST_REPLACEMENT, out=gradient)
    return num_replaced

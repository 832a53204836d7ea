"""The average that a trial keeps."""

import torch
from torch import nn

from ddo_engine.ema.half_life import half_life_decay, ramped_half_life
from ddo_engine.ema.power_function import power_decay
from ddo_engine.spec import TrainingSettings


def ema_decay_at(step: int, training: TrainingSettings) -> float:
    """Return the share of the old average that optimizer step ``step`` (0-based) leaves.

    Only the trial's own images count, not those of the base's training: each kind of average forgets within the trial.
    The power function counts the images after the step, as EDM2 does, and so does not remember the base at all; the
    ramp-up of a half-life counts those before it, as EDM does. Without ramp-up the base fades as the half-life says.

    Args:
        step: 0 … ``training.num_steps`` − 1.
        training: Kind and length of the average.
    """
    images_before = step * training.batch_size
    if training.ema_std is not None:
        return power_decay(images_before + training.batch_size, training.batch_size, training.ema_std)
    half_life_kimg = training.ema_half_life_kimg
    assert half_life_kimg is not None
    if training.ema_rampup_ratio is not None:
        half_life_kimg = ramped_half_life(half_life_kimg, images_before, training.ema_rampup_ratio)
    return half_life_decay(training.batch_size, half_life_kimg)


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

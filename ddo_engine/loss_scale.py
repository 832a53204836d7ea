"""What keeps small gradients from vanishing in float16: the loss is scaled up, and their overflow scales it down."""

import torch

from ddo_engine.spec import TrainingSettings

INITIAL_SCALE = 2.0**11  # of VAR's training
GROWTH_INTERVAL = 1000  # steps without overflow after which the scale doubles, there too
LOWEST_SCALE = 1.0  # gradients that overflow unscaled are no matter of scale


def make_loss_scaler(training: TrainingSettings, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler of a run; in float32 and bfloat16, whose range is float32's, it does nothing."""
    return torch.amp.GradScaler(
        device.type,
        init_scale=INITIAL_SCALE,
        growth_interval=GROWTH_INTERVAL,
        enabled=training.precision == "float16",
    )


def may_skip(scaler: torch.amp.GradScaler) -> bool:
    """Tell whether a step whose gradients overflow is one to skip, rather than the end of the run."""
    return scaler.is_enabled() and scaler.get_scale() > LOWEST_SCALE

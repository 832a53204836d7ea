"""Models by their file, whoever published it."""

from pathlib import Path

import torch
from torch import nn

from ddo_engine.checkpoint import load_checkpoint


def load_model(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
    """Return a checkpoint's network in eval mode.

    Args:
        path: A checkpoint.
        device: Where the network shall be.
        dtype: What its weights shall be; None for what they are stored in, as official sampling has them.

    Raises:
        CorruptCheckpoint: See :func:`ddo_engine.checkpoint.load_checkpoint`.
    """
    return load_checkpoint(path, device, dtype).model

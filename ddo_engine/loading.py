"""Models by their file, whoever published it."""

from pathlib import Path

import torch
from torch import nn

from ddo_engine.checkpoint import assemble
from ddo_engine.conversion import open_official


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    autoencoder: str | Path | nn.Module | None = None,
) -> nn.Module:
    """Return a checkpoint's network in eval mode.

    Args:
        path: A checkpoint of ours, or one as its authors publish it: ``.pkl`` of EDM and EDM2, ``.pth`` of VAR and
            VQVAE. What a bare state dict does not say about itself, :func:`ddo_engine.conversion.convert` asks for.
        device: Where the network shall be.
        dtype: What its weights shall be; None for what they are stored in, as official sampling has them.
        autoencoder: Of a model of tokens or latents: the VQVAE or AutoencoderKL that it works behind, or its file. A
            VAR model has no likelihood without it, and neither kind has pixels.

    Raises:
        CorruptCheckpoint: See :func:`ddo_engine.checkpoint.load_checkpoint`.
        IncompatibleInputs: The model needs no autoencoder, or not this one.
    """
    official = open_official(path)
    checkpoint = assemble(Path(path), official.manifest, official.tensors, device, dtype)
    if autoencoder is None:
        return checkpoint.model
    if not isinstance(autoencoder, nn.Module):
        autoencoder = load_model(autoencoder, device, dtype)
    checkpoint.family.attach_autoencoder(checkpoint.model, autoencoder)
    return checkpoint.model

"""Models by their file, whoever published it."""

from pathlib import Path

import torch
from torch import nn

from ddo_engine.checkpoint import assemble
from ddo_engine.conversion import ConversionOptions, open_official
from ddo_engine.errors import InvalidSpec
from ddo_engine.families.var.transformer import VAR


def load_model(
    path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    autoencoder: str | Path | nn.Module | None = None,
    options: ConversionOptions | None = None,
) -> nn.Module:
    """Return a checkpoint's network in eval mode.

    Args:
        path: A checkpoint of ours, or one as its authors publish it: ``.pkl`` of EDM and EDM2, ``.pth`` of VAR and
            VQVAE.
        device: Where the network shall be.
        dtype: What its weights shall be; None for what they are stored in, as official sampling has them.
        autoencoder: Of a model of tokens or latents: the VQVAE or AutoencoderKL that it works behind, or its file. A
            VAR model has no likelihood without it, and neither kind has pixels.
        options: What a bare state dict does not say about itself, as for :func:`ddo_engine.conversion.convert`. A
            VQVAE that is given as ``autoencoder`` has the scales of its VAR.

    Raises:
        CorruptCheckpoint: See :func:`ddo_engine.checkpoint.load_checkpoint`.
        InvalidSpec: The options do not fit the file, or it needs some.
        IncompatibleInputs: The model needs no autoencoder, or not this one.
    """
    official = open_official(path, options)
    checkpoint = assemble(Path(path), official.manifest, official.tensors, device, dtype)
    if autoencoder is None:
        return checkpoint.model
    if not isinstance(autoencoder, nn.Module):
        autoencoder = _load_autoencoder(autoencoder, checkpoint.model, device, dtype)
    checkpoint.family.attach_autoencoder(checkpoint.model, autoencoder)
    return checkpoint.model


def _load_autoencoder(
    path: str | Path, model: nn.Module, device: str | torch.device, dtype: torch.dtype | None
) -> nn.Module:
    if isinstance(model, VAR):
        # Its file may not say the scales of a VQVAE, and ten may be others than the official ten.
        try:
            return load_model(path, device, dtype, options=ConversionOptions(patch_nums=model.patch_nums))
        except InvalidSpec as error:
            if error.param != "patch_nums":
                raise
    return load_model(path, device, dtype)

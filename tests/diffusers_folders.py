"""Tiny models of the diffusers library, randomly initialised, and folders as the library writes them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 16,
}


def library_unet(seed: int = 0, **changes: Any) -> nn.Module:
    """Return a ``UNet2DModel`` in eval mode."""
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(**UNET | changes).eval()


def library_autoencoder(seed: int = 0, **changes: Any) -> nn.Module:
    """Return an ``AutoencoderKL`` in eval mode whose latents and images are not all alike."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(**VAE | changes).eval()


def write_pipeline(folder: Path, unet: nn.Module, scheduler: Any = None) -> Path:
    """Write a pipeline's folder; the scheduler is DDPM's default if none is given."""
    from diffusers import DDPMPipeline, DDPMScheduler

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDPMPipeline(unet, scheduler or DDPMScheduler()).save_pretrained(folder)
    return folder

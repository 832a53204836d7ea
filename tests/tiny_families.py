"""A network of each published family that fits the tiny inputs: 4×4 grey images of three classes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddo_engine.checkpoint import CheckpointManifest, save_checkpoint
from ddo_engine.families import get_family

EDM2: dict[str, Any] = {
    "class_name": "Precond",
    "img_resolution": 4,
    "img_channels": 1,
    "label_dim": 3,
    "use_fp16": True,
    "sigma_data": 0.5,
    "logvar_channels": 8,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [2],
    "channels_per_head": 8,
}
VQVAE: dict[str, Any] = {
    "class_name": "VQVAE",
    "vocab_size": 16,
    "z_channels": 4,
    "ch": 32,
    "ch_mult": [1, 1],
    "num_res_blocks": 1,
    "in_channels": 1,
    "v_patch_nums": [1, 2],
}
VAR: dict[str, Any] = {
    "class_name": "VAR",
    "num_classes": 3,
    "depth": 1,
    "embed_dim": 16,
    "num_heads": 2,
    "patch_nums": [1, 2],
    "vocab_size": 16,
    "z_channels": 4,
}
DISCRIMINATOR: dict[str, Any] = {
    "class_name": "Discriminator",
    "img_resolution": 4,
    "img_channels": 1,
    "label_dim": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}


def randomised(family: str, network: dict[str, Any], *, seed: int) -> nn.Module:
    """Return a network whose output depends on its input: gains and gates are not zero."""
    torch.manual_seed(seed)
    model = get_family(family).build(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_discriminator(*, label_dim: int, img_resolution: int, img_channels: int, **config: Any) -> nn.Module:
    """Return a discriminator, of pixels if nothing else is said, whose logit and its gradient are not zero."""
    shape = {"label_dim": label_dim, "img_resolution": img_resolution, "img_channels": img_channels}
    return randomised("discriminator", DISCRIMINATOR | shape | config, seed=3)


def write_discriminator(path: Path, **config: Any) -> Path:
    """Write such a discriminator; by default of the tiny images."""
    network = DISCRIMINATOR | config
    manifest = CheckpointManifest(family="discriminator", network=network)
    save_checkpoint(path, randomised("discriminator", network, seed=3), manifest)
    return path

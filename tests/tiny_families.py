"""A network of each published family that fits the tiny inputs: 4×4 grey images of three classes."""

from typing import Any

import torch
from torch import nn

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


def randomised(family: str, network: dict[str, Any], *, seed: int) -> nn.Module:
    """Return a network whose output depends on its input: gains and gates are not zero."""
    torch.manual_seed(seed)
    model = get_family(family).build(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model

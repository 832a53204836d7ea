"""The published architectures at full size, with random weights, and the machine that they are measured on."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddo_engine.families import get_family
from ddo_engine.families.var.transformer import VAR

EDM_CIFAR10 = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 32,
    "img_channels": 3,
    "label_dim": 10,
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "augment_dim": 9,
}
EDM2_XS = {
    "class_name": "Precond",
    "img_resolution": 64,
    "img_channels": 3,
    "label_dim": 1000,
    "model_channels": 128,
}
EDM2_S_IMG64 = EDM2_XS | {"model_channels": 192}
EDM2_L_IMG512 = EDM2_XS | {"img_channels": 4, "model_channels": 320}
EDM2_XXL_IMG512 = EDM2_XS | {"img_channels": 4, "model_channels": 448}
VAR_D16 = {
    "class_name": "VAR",
    "num_classes": 1000,
    "depth": 16,
    "embed_dim": 1024,
    "num_heads": 16,
    "vocab_size": 4096,
    "z_channels": 32,
}
VAR_D30 = VAR_D16 | {"depth": 30, "embed_dim": 1920, "num_heads": 30}
SMALLEST_VAR = VAR_D16 | {"num_classes": 1, "depth": 1, "embed_dim": 2, "num_heads": 1, "vocab_size": 2}
VQVAE = {"class_name": "VQVAE", "vocab_size": 4096, "z_channels": 32, "ch": 160}


def built(family: str, config: dict[str, Any]) -> nn.Module:
    """Return a network with random weights of unit gain, without the time that its own initialisation takes."""
    with torch.device("meta"):
        network = get_family(family).build(config)
    network.to_empty(device="cpu").requires_grad_(requires_grad=False)
    for name, weight in network.state_dict().items():
        if name.endswith("resample_filter"):
            weight.fill_(0.25)
        elif weight.is_floating_point() and weight.ndim >= 2:
            weight.normal_(std=weight[0].numel() ** -0.5)
        else:
            weight.fill_(1 if name.endswith(("weight", "gain")) else 0)
    return network


def built_var(config: dict[str, Any]) -> VAR:
    """Return a VAR without its tokenizer, made as ``built`` makes networks."""
    model = built("var", config)
    assert isinstance(model, VAR)
    # What is not random depends on the scales alone.
    for name, buffer in get_family("var").build(SMALLEST_VAR).named_buffers(recurse=False):
        model.get_buffer(name).copy_(buffer)
    return model


def var_d16() -> VAR:
    """Return VAR-d16 with its tokenizer."""
    model = built_var(VAR_D16)
    get_family("var").attach_autoencoder(model, built("var", VQVAE))
    return model


def processor() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))

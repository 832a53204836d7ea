"""The tiny VAR of golden 14 with its tokenizer, golden 13."""

import torch

from ddo_engine.families import get_family
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.families.var.transformer import VAR
from ddo_engine.families.var.vqvae import VQVAE
from tests.numerics.golden import description, state_dict

VQVAE_GOLDEN, VAR_GOLDEN = "13_vqvae", "14_var"


def vqvae_config():
    return description(VQVAE_GOLDEN)["constructor"] | description(VQVAE_GOLDEN)["encoder_decoder"]


def var_config():
    """With what the official constructor takes from its tokenizer."""
    return description(VAR_GOLDEN)["constructor"] | {"vocab_size": 48, "z_channels": 8}


def tiny_vqvae() -> VQVAE:
    vqvae = get_family("var").build(vqvae_config())
    vqvae.load_state_dict(state_dict(VQVAE_GOLDEN))
    return vqvae


def tiny_var() -> VAR:
    model = get_family("var").build(var_config())
    model.load_state_dict(state_dict(VAR_GOLDEN))
    model.attach_tokenizer(tiny_vqvae())
    return model


def random_images(num_images: int, seed: int = 0) -> LabelledImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (num_images, 3, 12, 12), generator=generator, dtype=torch.uint8)
    return LabelledImages(pixels, torch.randint(10, (num_images,), generator=generator))

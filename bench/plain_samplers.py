"""Samplers as one would write them without this engine: what its speed is compared with."""

from itertools import pairwise

import torch
from torch import Tensor

from ddo_engine.families.diffusion.denoiser import Denoiser
from ddo_engine.families.var.transformer import VAR
from ddo_engine.families.var.transformer_layers import KeyValueCache


def plain_heun(model: Denoiser, latents_BCHW: Tensor, labels_B: Tensor, num_steps: int) -> Tensor:
    """Draw images as a textbook would (arXiv:2206.00364, algorithm 1)."""
    levels = [(80 ** (1 / 7) + i / (num_steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(num_steps)]
    levels.append(0.0)
    x = latents_BCHW.double() * levels[0]
    for now, following in pairwise(levels):
        slope = (x - model.denoise(x.float(), now, labels_B).double()) / now
        moved = x + (following - now) * slope
        if following > 0:
            slope_there = (moved - model.denoise(moved.float(), following, labels_B).double()) / following
            moved = x + (following - now) * (slope + slope_there) / 2
        x = moved
    images: Tensor = (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
    return images


def plain_var(model: VAR, labels_B: Tensor, *, cached: bool) -> Tensor:
    """Draw images scale by scale, from one random stream; without a cache all coarser scales are computed again."""
    condition = model.condition(labels_B, len(labels_B))
    modulations, tokenizer = model.modulations(condition), model.tokenizer
    caches = [KeyValueCache() for _ in modulations] if cached else None
    embedded, f_hat, tokens = [model.first_scale(condition)], None, []
    for scale, count in enumerate(model.tokens_per_scale):
        first = scale if cached else 0
        x = torch.cat(embedded[first:], dim=1) + model.places(first, scale + 1)
        bias = None if cached else model.attn_bias_for_masking[:, :, : x.shape[1], : x.shape[1]]
        logits = model.transformed(x, condition, modulations, bias_11LL=bias, caches=caches)[:, -count:]
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).reshape(len(labels_B), count)
        tokens.append(drawn)
        if scale < len(model.patch_nums) - 1:
            f_hat, inputs = tokenizer.next_scale_input(f_hat, drawn, scale)
            embedded.append(model.embedded(inputs))
    return ((tokenizer.decode(torch.cat(tokens, dim=1)) + 1) / 2 * 255).to(torch.uint8)

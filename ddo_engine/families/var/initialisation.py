"""Random weights to start a VAR from; a loaded checkpoint overwrites them."""

import math

import torch
from torch import nn

from ddo_engine.families.var.transformer_layers import Block, HeadNorm

GATE_FACTOR = 1e-5
MODULATION_FACTOR = 0.5
HEAD_FACTOR = 0.02


@torch.no_grad()
def initialise_(
    embed_dim: int, positions: list[nn.Parameter], layers: list[nn.Module], blocks: list[Block], head_norm: HeadNorm
) -> None:
    """Give every block almost no effect at first, so that depth does no harm before it has learnt anything.

    Linear layers and embeddings get truncated normals of variance 1 / (3 C), biases zero. Outputs of the residual
    branches shrink with depth, their gates are nearly closed; ``layers[-1]``, the head, outputs nearly equal logits.

    Args:
        embed_dim: C.
        positions: Learnt embeddings that belong to no layer.
        layers: Embeddings and linear layers outside the blocks, the head last.
        blocks: Of the transformer.
        head_norm: The norm before the head.
    """
    std = math.sqrt(1 / (3 * embed_dim))
    for parameter in positions:
        _normal_(parameter, std)
    for module in [*layers, *blocks, head_norm]:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                _normal_(layer.weight, std)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for block in blocks:
        block.attn.proj.weight.div_(math.sqrt(2 * len(blocks)))
        block.ffn.fc2.weight.div_(math.sqrt(2 * len(blocks)))
        gates, modulation = torch.split(block.ada_lin.linear.weight, [2 * embed_dim, 4 * embed_dim])
        gates.mul_(GATE_FACTOR)
        modulation.mul_(MODULATION_FACTOR)
    head_norm.ada_lin.linear.weight.mul_(MODULATION_FACTOR)
    head = layers[-1]
    assert isinstance(head, nn.Linear)
    head.weight.mul_(HEAD_FACTOR)


def _normal_(weight: torch.Tensor, std: float) -> None:
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)

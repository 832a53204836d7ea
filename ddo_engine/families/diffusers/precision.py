"""Networks of the library compute in whatever their weights are; here they compute in float32."""

from typing import Any

import torch
from torch import nn


def call_in_float32(network: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Call a network as if its weights were float32: those of a checkpoint in half precision are widened for the call.

    Args:
        network: All weights of one dtype.
        arguments: Of its ``forward``.
        options: Of its ``forward``.
    """
    if next(network.parameters()).dtype == torch.float32:
        return network(*arguments, **options)
    weights = {name: weight.to(torch.float32) for name, weight in network.named_parameters()}
    return torch.func.functional_call(network, weights, arguments, options)

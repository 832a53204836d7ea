"""Networks of the library compute in whatever their weights are; here the caller says what they compute in."""

from typing import Any

import torch
from torch import nn


def call_in(dtype: torch.dtype, network: nn.Module, *arguments: Any, **options: Any) -> Any:
    """Call a network as if its weights were of this dtype: those in half precision are widened for the call.

    Args:
        dtype: To compute in.
        network: All weights of one dtype.
        arguments: Of its ``forward``.
        options: Of its ``forward``.
    """
    if next(network.parameters()).dtype == dtype:
        return network(*arguments, **options)
    weights = {name: weight.to(dtype) for name, weight in network.named_parameters()}
    return torch.func.functional_call(network, weights, arguments, options)

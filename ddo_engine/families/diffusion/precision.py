"""The numerical conditions under which a log-likelihood ratio means anything.

The ratio subtracts two nearly equal sums, so half precision or TF32 drowns it, and any randomness that differs between
target and reference turns it into noise (arXiv:2503.01103, appendix C).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def forbid_tf32() -> None:
    """Compute float32 products and convolutions in float32, in this process, from now on.

    Not a context manager: the backward pass runs after the forward pass has returned and must obey too.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def dropout_off(*models: nn.Module) -> Iterator[None]:
    """Run the models in eval mode inside the block; every submodule gets its own mode back afterwards."""
    switched = [module for model in models for module in model.modules() if module.training]
    for module in switched:
        module.training = False
    try:
        yield
    finally:
        for module in switched:
            module.training = True

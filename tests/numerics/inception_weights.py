"""Inception-v3 with the weights of golden 19, which are not stored but follow from a hash."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from tests.numerics.golden import description, hashed_uniform

NAME = "19_inception"


@cache
def inception_weights() -> dict[str, Tensor]:
    """The state dict under the names of the published port."""
    return {name: _weight(name, tuple(shape)) for name, shape in description(NAME)["keys"].items()}


def _weight(name: str, shape: tuple[int, ...]) -> Tensor:
    if not shape:
        return torch.tensor(0)
    centred = hashed_uniform(name, int(np.prod(shape)), description(NAME)["salt"]) - np.float32(0.5)
    if len(shape) >= 2:
        values = centred * np.float32(np.sqrt(30 / np.prod(shape[1:])))
    elif name.endswith(("weight", "running_var")):
        values = np.float32(1) + np.float32(0.5) * centred
    else:
        values = np.float32(0.1) * centred
    return torch.from_numpy(values.reshape(shape).astype(np.float32))

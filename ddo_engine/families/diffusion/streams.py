"""The random streams of samples. Shapes: B batch, K classes."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SampleStreams:
    """One random stream per sample, so that image i depends on seed i alone and not on its batch.

    A stream is a CPU generator seeded with the sample's seed. It gives, in this order: the latent, the label (of a
    conditional model, whether used or not), the churn noise of each step (only if there is churn).
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normals of shape (B, *shape)."""
        return torch.stack([torch.randn(*shape, generator=g, dtype=dtype) for g in self._generators])

    def integers(self, stop: int) -> Tensor:
        """Return int64 draws from 0 … stop − 1, shape (B,)."""
        return torch.stack([torch.randint(stop, (), generator=g) for g in self._generators])

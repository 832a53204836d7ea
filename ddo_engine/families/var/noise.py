"""Where the randomness of sampled tokens comes from.

Tokens are drawn by an exponential race: the token with the largest ``p / q``, ``q`` independent standard exponentials,
has distribution p. Shapes: B batch, l tokens of a scale, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class RaceNoise(Protocol):
    """A source of exponentials for a batch."""

    def exponentials(self, num_tokens: int, vocab_size: int) -> Tensor:
        """Return standard exponentials for one scale, float32, (B, l, V), on any device."""


class SampleNoise:
    """One random stream per sample, so that image i depends on seed i alone and not on its batch.

    A stream is a CPU generator seeded with the sample's seed. It gives, in this order: the label (of a conditional
    model, whether used or not), then the exponentials of each scale, tokens outer, vocabulary inner.
    """

    def __init__(self, seeds: Sequence[int], label_dim: int) -> None:
        """Open the streams and draw the labels.

        Args:
            seeds: One per sample.
            label_dim: Number of classes; 0 draws no labels.
        """
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labels = [torch.randint(label_dim, (), generator=generator) for generator in self._generators if label_dim]
        self.labels_B = torch.stack(labels) if labels else None

    def exponentials(self, num_tokens: int, vocab_size: int) -> Tensor:
        """See :meth:`RaceNoise.exponentials`."""
        shape = (num_tokens, vocab_size)
        return torch.stack([torch.empty(shape).exponential_(generator=generator) for generator in self._generators])


class BatchNoise:
    """One generator for the whole batch, whose draws are those of ``torch.multinomial`` in the official sampler.

    An image then depends on its place in the batch and on the batch's size: of use to repeat official samples.
    """

    def __init__(self, generator: torch.Generator, batch_size: int) -> None:
        self._generator = generator
        self._batch_size = batch_size

    def exponentials(self, num_tokens: int, vocab_size: int) -> Tensor:
        """See :meth:`RaceNoise.exponentials`."""
        rows = torch.empty(self._batch_size * num_tokens, vocab_size).exponential_(generator=self._generator)
        return rows.reshape(self._batch_size, num_tokens, vocab_size)


class RowNoise:
    """One random stream per row of a training batch, on the device that trains: no label, only the exponentials.

    At full size a fake takes 2.8 million of them, which a CPU would take longer to draw than a GPU takes for the rest.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        """Open the streams.

        Args:
            seeds: One per row.
            device: Where they run; another kind of device gives other numbers.
        """
        self._device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def exponentials(self, num_tokens: int, vocab_size: int) -> Tensor:
        """See :meth:`RaceNoise.exponentials`."""
        drawn = torch.empty(len(self._generators), num_tokens, vocab_size, device=self._device)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.exponential_(generator=generator)
        return drawn

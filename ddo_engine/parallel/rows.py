"""A tensor that lies in rows over the processes, and how it comes together again.

Process r has the rows that ``tensor.chunk(size)[r]`` has: the first ones some more than the last, which may have none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ddo_engine.parallel.ranks import Ranks
from ddo_engine.stored_tensor import WritableTensor, pieces_of


def rows_of(whole: Tensor, ranks: Ranks) -> Tensor:
    """Return the rows of a tensor that are this process's: a view."""
    most = most_rows(whole.shape, ranks)
    first = min(ranks.rank * most, len(whole))
    return whole[first : min(first + most, len(whole))]


def most_rows(shape: tuple[int, ...], ranks: Ranks) -> int:
    """Return how many rows of a tensor of this shape the first process has."""
    return -(-shape[0] // ranks.size)


@dataclass(frozen=True)
class Rows:
    """This process's rows of a tensor.

    Attributes:
        own: The rows, on the device that trains.
        shape: Of the whole.
        ranks: The processes that have the others.
    """

    own: Tensor
    shape: tuple[int, ...]
    ranks: Ranks

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""
        return self.own.dtype

    def whole(self) -> Tensor:
        """Return the whole tensor, a copy, in every process. A meeting."""
        return self.ranks.gather_whole(self._padded())[: self.shape[0]]

    def pieces(self) -> Iterator[Tensor]:
        """Yield the whole tensor as ``pieces_of`` does where this process leads; nothing in the others.

        A meeting: whoever writes a file has one whole tensor at a time, and the others send theirs.
        """
        whole = self.ranks.send_whole(self._padded())
        if whole is not None:
            yield from pieces_of(whole[: self.shape[0]])

    def _padded(self) -> Tensor:
        most = most_rows(self.shape, self.ranks)
        if len(self.own) == most:
            return self.own.detach().contiguous()
        padded = self.own.new_zeros(most, *self.shape[1:])
        padded[: len(self.own)] = self.own.detach()
        return padded


def send_rows(tensors: Mapping[str, WritableTensor]) -> None:
    """Take part while the process that leads writes a file of these tensors."""
    rows = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Rows)}
    # Files are in the order of dtypes and names; writers go by it, or by names alone.
    assert len({each.dtype for each in rows.values()}) <= 1
    for name in sorted(rows):
        for _ in rows[name].pieces():
            pass

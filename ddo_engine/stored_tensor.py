"""A tensor that lies in a file: described without being read, mapped while it is copied into memory.

Mapped pages count as memory of the process, so that a checkpoint that is copied out of one mapping takes twice its
size. Here each tensor has a mapping of its own, as long as its copy takes: a checkpoint takes its size, and once more
that of one tensor. Copies from file to file are read, a piece at a time.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ddo_engine.errors import CorruptCheckpoint

_PIECE_BYTES = 1 << 22


class PiecewiseTensor(Protocol):
    """A tensor that is not all in this process's memory."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes."""

    def pieces(self) -> Iterator[Tensor]:
        """Yield the elements in row-major order as flat tensors on the CPU."""


WritableTensor = Tensor | PiecewiseTensor


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. Whoever makes one has checked that it ends before the file does.

    Attributes:
        path: The file.
        offset: Byte of the first element.
        dtype: Little-endian in the file.
        shape: Sizes.
        strides: In elements, of a dense layout other than row-major; None for row-major.
    """

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that the elements take."""
        return prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[Tensor]:
        """Yield the elements in row-major order as flat tensors of a few megabytes.

        Raises:
            CorruptCheckpoint: The file has become shorter.
        """
        if self.strides is not None:
            yield self.read().flatten()
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            remaining = self.num_bytes
            while remaining:
                buffer = bytearray(min(_PIECE_BYTES, remaining))
                self._fill(file.readinto(buffer), len(buffer))
                remaining -= len(buffer)
                yield torch.frombuffer(buffer, dtype=self.dtype)

    def read(self, device: str | torch.device = "cpu") -> Tensor:
        """Return the tensor, row-major.

        Raises:
            CorruptCheckpoint: The file has become shorter.
        """
        flat = torch.empty(prod(self.shape), dtype=self.dtype)
        if flat.numel():
            flat.view(torch.uint8).copy_(self._mapped())
        if self.strides is None:
            return flat.view(self.shape).to(device)
        return flat.as_strided(self.shape, self.strides).to(device).contiguous()

    def _mapped(self) -> Tensor:
        """Return the bytes in the file, uint8; they are unmapped with the last reference to them.

        Raises:
            CorruptCheckpoint: The file has become shorter.
        """
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            end = self.offset + self.num_bytes
            self._fill(min(os.fstat(file.fileno()).st_size, end) - self.offset, self.num_bytes)
            # A copy on write that nobody writes to: torch warns of what cannot be written.
            mapping = mmap.mmap(file.fileno(), end - start, access=mmap.ACCESS_COPY, offset=start)
        return torch.frombuffer(mapping, dtype=torch.uint8, offset=self.offset - start)

    def _fill(self, num_read: int, num_wanted: int) -> None:
        if num_read != num_wanted:
            raise CorruptCheckpoint(f"{self.path.name} became shorter while it was read: fetch it again")


def pieces_of(tensor: WritableTensor) -> Iterator[Tensor]:
    """Yield a tensor's elements in row-major order as flat tensors on the CPU."""
    if isinstance(tensor, Tensor):
        yield tensor.detach().cpu().contiguous().flatten()
    else:
        yield from tensor.pieces()

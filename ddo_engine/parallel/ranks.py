"""What the processes of a run do together, each at the same point of its work; a process alone does none of it.

Everything small goes over gloo on the CPU, so that a GPU is never waited for and a process that has ended is noticed
at once; gradients and rows go over the device's own group.

Shapes: B rows of a step's batch, R rows of this process, K columns.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ddo_engine.device import out_of_memory_blames
from ddo_engine.errors import EngineError, ProcessLost

_NAMES_OF_BACKENDS = ("gloo", "NCCL")  # in what their exchanges fail with
BUCKET_BYTES = 64 * 2**20  # of gradients in one exchange: many small tensors are one call, and one copy is small

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, seen from one of them.

    Every method that is no property is a meeting: all processes call it, in the same order.

    Attributes:
        rank: Which one this is.
        size: How many there are.
        control: Group for what is small, on the CPU; None for a process alone.
        data: Group for tensors of the device.
    """

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None
    data: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that tells events and writes files."""
        return self.rank == 0

    def rows_of(self, batch_size: int) -> range:
        """Return which rows of a batch are this process's: a range, in the order of ranks, as even as can be."""
        return range(self.rank * batch_size // self.size, (self.rank + 1) * batch_size // self.size)

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process."""
        return bool(self._most(torch.tensor([flag], dtype=torch.uint8)).item())

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Let an error of any process in this block become one of all at its end: that of the lowest rank.

        Raises:
            EngineError: Of this process or another.
        """
        mine: EngineError | None = None
        try:
            yield
        except EngineError as error:
            if self.size == 1:
                raise
            mine = error
        if not self.any(mine is not None):
            return
        raise next(found for found in self._of_all(mine) if found is not None) from mine

    @contextmanager
    def in_lockstep(self) -> Iterator[None]:
        """Let an error of any process in a block in which they meet without end be the end of all.

        It is told where it happened, and whoever waits for that process loses it: in the block, or on a GPU, whose
        meetings nobody waits for, at the end of it.

        Raises:
            ProcessLost: Another process had an error.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, EngineError) or not any(name in str(error) for name in _NAMES_OF_BACKENDS):
                raise
            raise _lost(error) from error
        self.wait()

    def sum_gradients_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes, the same bits in each.

        A parameter has one afterwards if it had one anywhere.

        Raises:
            OutOfMemory: A process has no room for one bucket.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        present = self._most(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8))
        gradients = []
        # All memory is asked for before the first exchange: who has too little would leave the others waiting in it.
        with self.in_step(), out_of_memory_blames("training.batch_size"):
            for parameter, is_present in zip(parameters, present.tolist(), strict=True):
                if is_present and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                if parameter.grad is not None:
                    gradients.append(parameter.grad)
            parts = list(buckets(gradients, BUCKET_BYTES))
            room = max((sum(gradient.nbytes for gradient in bucket) for bucket in parts), default=0)
            memory = parameters[0].new_empty(room, dtype=torch.uint8)
        for bucket in parts:
            flat = memory[: sum(gradient.nbytes for gradient in bucket)].view(bucket[0].dtype)
            torch.cat([gradient.reshape(-1) for gradient in bucket], out=flat)
            with _losses_of_peers():
                dist.all_reduce(flat, group=self.data)
            for gradient, part in zip(bucket, torch.split(flat, [each.numel() for each in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def gather_rows(self, values_RK: Tensor, batch_size: int) -> Tensor:
        """Return the rows of all processes in the order of the batch. Shape (batch_size, K), the same in each.

        Args:
            values_RK: The rows of :meth:`rows_of`, on the device that trains.
            batch_size: Rows of the whole.
        """
        if self.size == 1:
            return values_RK
        most = -(-batch_size // self.size)
        padded_RK = values_RK.new_zeros(most, *values_RK.shape[1:])
        padded_RK[: len(values_RK)] = values_RK
        parts = [torch.empty_like(padded_RK) for _ in range(self.size)]
        with _losses_of_peers():
            dist.all_gather(parts, padded_RK, group=self.data)
        lengths = [len(Ranks(rank, self.size).rows_of(batch_size)) for rank in range(self.size)]
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def gather_whole(self, padded_rows: Tensor) -> Tensor:
        """Return the rows of all processes, one after the other, in each.

        Args:
            padded_rows: As many in every process, contiguous, on the device that trains.
        """
        whole = padded_rows.new_empty(self.size * len(padded_rows), *padded_rows.shape[1:])
        with _losses_of_peers():
            dist.all_gather(list(whole.chunk(self.size)), padded_rows, group=self.data)
        return whole

    def send_whole(self, padded_rows: Tensor) -> Tensor | None:
        """Return what :meth:`gather_whole` does where this process leads; else None, and no more memory is taken."""
        whole = padded_rows.new_empty(self.size * len(padded_rows), *padded_rows.shape[1:]) if self.leads else None
        with _losses_of_peers():
            dist.gather(padded_rows, None if whole is None else list(whole.chunk(self.size)), dst=0, group=self.data)
        return whole

    def sum_(self, values: Tensor) -> Tensor:
        """Replace values on the device by their sums over the processes, the same bits in each; return them."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def most_(self, values: Tensor) -> Tensor:
        """Replace values on the device by the largest of any process; return them."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def collect(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of ranks, where this one leads; else nothing."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.leads else None
        with _losses_of_peers():
            dist.gather_object(value, values, dst=0, group=self.control)
        return values or []

    def from_leader(self, value: T) -> T:
        """Return what the process that leads has."""
        if self.size == 1:
            return value
        values: list[Any] = [value]
        with _losses_of_peers():
            dist.broadcast_object_list(values, src=0, group=self.control)
        result: T = values[0]
        return result

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            with _losses_of_peers():
                dist.barrier(group=self.control)

    def check_same(self, what: str, text: str) -> None:
        """Refuse to go on where processes have come to differ.

        Args:
            what: What is compared, for people.
            text: What must be equal, such as a hash.

        Raises:
            EngineError: It is not.
        """
        if self.size == 1:
            return
        texts = self._of_all(text)
        differing = [str(rank) for rank, other in enumerate(texts) if other != texts[0]]
        if differing:
            raise EngineError(
                f"{what} of process {', '.join(differing)} differ from those of process 0: what the last state holds "
                "is good, run the same command again; if it happens again, a device computes wrongly"
            )

    def _reduced(self, values: Tensor, how: "dist.ReduceOp.RedOpType") -> Tensor:
        if self.size > 1:
            with _losses_of_peers():
                dist.all_reduce(values, op=how, group=self.data)
        return values

    def _most(self, values: Tensor) -> Tensor:
        if self.size > 1:
            with _losses_of_peers():
                dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.control)
        return values

    def _of_all(self, value: T) -> list[T]:
        values: list[Any] = [None] * self.size
        with _losses_of_peers():
            dist.all_gather_object(values, value, group=self.control)
        return values


ALONE = Ranks()


def buckets(tensors: Sequence[Tensor], num_bytes: int) -> Iterator[list[Tensor]]:
    """Yield the tensors in order, as many at once as have one type and about ``num_bytes``; at least one."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > num_bytes):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


@contextmanager
def _losses_of_peers() -> Iterator[None]:
    """Turn what torch raises when another process is gone into a :class:`ProcessLost`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _lost(error) from error


def _lost(error: RuntimeError) -> ProcessLost:
    return ProcessLost(f"another process of this run has ended ({' '.join(str(error).split())})")

"""Work cut over the processes of a run, and its results in the order of one process."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ddo_engine.parallel.ranks import Ranks

Item = TypeVar("Item")
Result = TypeVar("Result")


def sharded(ranks: Ranks, items: Sequence[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
    """Yield ``work(item)`` for every item in order, in the process that leads; the others work and yield nothing.

    Item i is done by rank i mod size. So whatever one process does with an item, here too one process does, with the
    very same calls, and the results are equal to the bit.

    Args:
        ranks: All of them must exhaust this iterator.
        items: The same in all processes.
        work: Its results travel between processes: tensors on the CPU.

    Raises:
        EngineError: Of any process, in all.
    """
    for first in range(0, len(items), ranks.size):
        mine = first + ranks.rank
        done: list[Result] = []
        with ranks.in_step():
            if mine < len(items):
                done.append(work(items[mine]))
        for results in ranks.collect(done):
            yield from results

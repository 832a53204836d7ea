"""Work cut over the processes of a run, and its results in the order of one process."""

from collections import deque
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
    return sharded_ahead(ranks, items, lambda item: lambda: work(item), ahead=0)


def sharded_ahead(
    ranks: Ranks, items: Sequence[Item], begin: Callable[[Item], Callable[[], Result]], *, ahead: int
) -> Iterator[Result]:
    """Do what :func:`sharded` does of work that a device goes on with while the next is prepared.

    Args:
        ranks: As there.
        items: As there.
        begin: Queues the work on an item, and returns what waits for its result.
        ahead: How many items a process begins beyond the one that it waits for.

    Raises:
        EngineError: As there.
    """
    begun: deque[Callable[[], Result]] = deque()
    num_rounds = -(-len(items) // ranks.size)
    for index in range(num_rounds + ahead):
        mine = index * ranks.size + ranks.rank
        done: list[Result] = []
        with ranks.in_step():
            if mine < len(items):
                begun.append(begin(items[mine]))
            if 0 <= mine - ahead * ranks.size < len(items):
                done.append(begun.popleft()())
        if index >= ahead:
            for results in ranks.collect(done):
                yield from results

"""What a process knows of the others without asking them, and what one alone does. Meetings: test_several_processes."""

import pytest
import torch

from ddo_engine.errors import InvalidSpec
from ddo_engine.parallel.ranks import ALONE, Ranks, buckets
from ddo_engine.parallel.sharding import sharded, sharded_ahead


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("batch_size", [8, 15, 512])
def test_rows_of_all_ranks_are_the_batch_in_order_and_even(size, batch_size):
    parts = [Ranks(rank, size).rows_of(batch_size) for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(batch_size))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert max(map(len, parts)) <= -(-batch_size // size)


def test_process_alone_keeps_what_it_has():
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    ALONE.sum_gradients_([parameter])
    assert parameter.grad.tolist() == [1.0, 2.0]
    values = torch.randn(4, 3)
    assert ALONE.gather_rows(values, 4) is values
    assert ALONE.collect("a") == ["a"]
    assert ALONE.from_leader("a") == "a"
    assert (ALONE.any(True), ALONE.any(False), ALONE.leads) == (True, False, True)
    ALONE.wait()
    ALONE.check_same("weights", "a")


def test_error_in_a_step_of_a_process_alone_is_its_own():
    with pytest.raises(InvalidSpec, match="mine") as caught, ALONE.in_step():
        raise InvalidSpec("mine")
    assert caught.value.__cause__ is None


def test_work_of_a_process_alone_is_all_of_it_in_order():
    done = []
    results = sharded(ALONE, range(4), lambda item: done.append(item) or 10 * item)
    assert next(results) == 0
    assert done == [0], "an item is done when it is asked for"
    assert list(results) == [10, 20, 30]


def test_buckets_hold_all_tensors_in_order_and_one_type_each():
    sizes = [3, 4, 100, 1, 1, 1]
    tensors = [torch.zeros(size, dtype=torch.float16 if size == 4 else torch.float32) for size in sizes]
    parts = list(buckets(tensors, 16))
    assert [len(tensor) for part in parts for tensor in part] == sizes
    assert [[len(tensor) for tensor in part] for part in parts] == [[3], [4], [100], [1, 1, 1]]
    assert list(buckets([], 16)) == []


@pytest.mark.parametrize(
    ("ahead", "expected"), [(0, "b0 w0 b1 w1 b2 w2"), (1, "b0 b1 w0 b2 w1 w2"), (5, "b0 b1 b2 w0 w1 w2")]
)
def test_work_is_begun_ahead_of_what_is_waited_for_and_its_results_come_in_order(ahead, expected):
    log = []

    def begin(item):
        log.append(f"b{item}")
        return lambda: log.append(f"w{item}") or 10 * item

    assert list(sharded_ahead(ALONE, range(3), begin, ahead=ahead)) == [0, 10, 20]
    assert " ".join(log) == expected
    assert list(sharded_ahead(ALONE, [], begin, ahead=ahead)) == []

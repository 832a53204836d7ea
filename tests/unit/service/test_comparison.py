"""Which protocol joins several checkpoints, and what keeps them apart."""

from typing import Any

from service.api.comparison.protocols import Apart, Number, common_protocol
from service.protocol_parts import differing_parts


def number(evaluation_id: str, num_samples: int, **parts: Any) -> Number:
    protocol = {"num_samples": num_samples, "sampler": {"num_steps": 18}, **parts}
    return Number(evaluation_id, str(protocol), protocol)


def test_common_protocol_is_that_of_the_most_samples_that_all_have() -> None:
    numbers = {
        "first": [number("a1", 50), number("a2", 1000), number("a3", 5000)],
        "second": [number("b1", 1000), number("b2", 50)],
    }
    found = common_protocol(numbers)
    assert not isinstance(found, Apart)
    assert {name: each.evaluation_id for name, each in found.items()} == {"first": "a2", "second": "b1"}


def test_common_protocol_of_as_many_samples_is_the_one_that_the_first_got_first() -> None:
    guided = {"sampler": {"num_steps": 18, "guidance_scale": 2.0}}
    numbers = {
        "first": [number("a1", 50), number("a2", 50, **guided), number("a3", 50)],
        "second": [number("b1", 50, **guided), number("b2", 50)],
    }
    found = common_protocol(numbers)
    assert not isinstance(found, Apart)
    assert [each.evaluation_id for each in found.values()] == ["a1", "b2"]


def test_common_protocol_names_the_parts_in_which_the_most_alike_differ() -> None:
    numbers = {
        "first": [number("a1", 50)],
        "alike": [number("b1", 50), number("b2", 9000)],
        "apart": [number("c1", 60, seed=3), number("c2", 50, seed=3)],
    }
    assert common_protocol(numbers) == Apart("first", "apart", {"seed": (None, 3)})


def test_common_protocol_of_three_that_share_only_in_pairs() -> None:
    numbers = {
        "first": [number("a1", 1), number("a2", 2)],
        "second": [number("b1", 2), number("b2", 3)],
        "third": [number("c1", 1), number("c2", 3)],
    }
    found = common_protocol(numbers)
    assert isinstance(found, Apart)
    assert (found.first, found.second) == ("first", "third")
    assert found.parts == {"num_samples": (2, 1)}


def test_differing_parts_look_inside() -> None:
    one = {"sampler": {"kind": "heun", "num_steps": 18, "S": [1, 2]}, "seed": 0, "ema": True}
    other = {"sampler": {"kind": "heun", "num_steps": 12, "S": [1, 3]}, "seed": 0}
    assert differing_parts(one, other) == {
        "ema": (True, None),
        "sampler.S": ([1, 2], [1, 3]),
        "sampler.num_steps": (18, 12),
    }
    assert differing_parts(one, one) == {}

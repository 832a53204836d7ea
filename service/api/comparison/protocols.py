"""Which protocol several checkpoints were all measured under, and what keeps them apart if there is none. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.protocol_parts import differing_parts


@dataclass(frozen=True)
class Number:
    """An evaluation, as far as the choice of a protocol looks at it.

    Attributes:
        evaluation_id: The evaluation.
        fingerprint: Of the protocol.
        protocol: The protocol itself.
    """

    evaluation_id: str
    fingerprint: str
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class Apart:
    """Two of those to compare that no protocol joins.

    Attributes:
        first: What is compared.
        second: What it cannot be compared with.
        parts: In which their protocols differ, by path: ``sampler.num_steps``; None where one says nothing of it.
    """

    first: str
    second: str
    parts: Mapping[str, tuple[Any, Any]]


def common_protocol(numbers: Mapping[str, Sequence[Number]]) -> dict[str, Number] | Apart:
    """Return a number for each, all of one protocol: of several protocols that of the most samples.

    Args:
        numbers: The numbers that each has, at least one, in the order that they were measured in; of two with as many
            samples the earlier one of the first is taken.

    Returns:
        The numbers, or the first that has none of the protocol of the first one, and in what its most alike differs.
    """
    first, *others = numbers
    candidates = sorted(numbers[first], key=lambda number: -int(number.protocol.get("num_samples", 0)))
    for candidate in candidates:
        found = {name: _of_protocol(numbers[name], candidate.fingerprint) for name in numbers}
        whole = {name: number for name, number in found.items() if number is not None}
        if len(whole) == len(numbers):
            return whole
    wanted = candidates[0]
    second = next(name for name in others if _of_protocol(numbers[name], wanted.fingerprint) is None)
    apart = [differing_parts(wanted.protocol, number.protocol) for number in numbers[second]]
    return Apart(first, second, min(apart, key=len))


def _of_protocol(numbers: Sequence[Number], fingerprint: str) -> Number | None:
    return next((number for number in numbers if number.fingerprint == fingerprint), None)

"""In what two protocols of evaluation differ, and how that is said to people. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any


def differing_parts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the parts in which two protocols differ, by path: ``sampler.num_steps``; None where one says nothing."""
    flat, other = dict(_flat(first)), dict(_flat(second))
    paths = sorted(flat.keys() | other.keys())
    return {path: (flat.get(path), other.get(path)) for path in paths if flat.get(path) != other.get(path)}


def in_words(parts: Mapping[str, tuple[Any, Any]]) -> str:
    """Return ``num_samples is 1000 against 5000; …``."""
    return "; ".join(f"{path} is {_said(first)} against {_said(second)}" for path, (first, second) in parts.items())


def _said(value: Any) -> str:
    return "not said" if value is None else str(value)


def _flat(protocol: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in protocol.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

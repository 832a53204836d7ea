"""What the inert unpickler makes of what a pickle wanted to make, and what that may cost."""

from dataclasses import dataclass
from typing import Any

MAX_OPERATIONS = 1_000_000  # the largest official file takes a tenth of it
MAX_TEXT_BYTES = 1 << 25  # official files quote their source code: 100 KB


@dataclass(frozen=True)
class InertGlobal:
    """A name that a pickle may mention.

    Attributes:
        name: Module and name, with a dot between.
        calls: Whether it may be called.
        makes: Whether it may be instantiated as a class.
        as_dict: Whether what comes of it is a plain dictionary.
    """

    name: str
    calls: bool = False
    makes: bool = False
    as_dict: bool = False


@dataclass(eq=False, slots=True)
class InertObject:
    """What a pickle wanted to construct.

    Attributes:
        kind: Name of the global.
        arguments: What it wanted to call it with.
        state: What it wanted to set on the result; None before, or if nothing.
    """

    kind: str
    arguments: tuple[Any, ...]
    state: Any = None


class InertDict(dict[Any, Any]):
    """A dictionary of some class; attributes that were set on it are dropped."""


@dataclass(frozen=True, eq=False, slots=True)
class PersistentId:
    """A reference to something outside the pickle."""

    value: Any


class Budget:
    """What reading one file may cost, over all pickles in it."""

    def __init__(self, operations: int = MAX_OPERATIONS, text_bytes: int = MAX_TEXT_BYTES) -> None:
        self.operations = operations
        self.text_bytes = text_bytes

"""Reads a pickle without running it.

A pickle is a program for a stack machine that may import anything and call it. This is that machine with nothing to
import and nothing to call: a global is a name in an allow-list, and a call of it is a record of name and arguments.
Bytes stay in the file, so that gigabytes of weights cost nothing; what does cost something is counted, and the count
is bounded before it is spent.
"""

import struct
from collections.abc import Callable, Mapping
from pickletools import opcodes
from typing import Any

from ddo_engine.conversion.byte_source import ByteSource
from ddo_engine.conversion.inert_objects import Budget, InertDict, InertGlobal, InertObject, PersistentId
from ddo_engine.errors import CorruptCheckpoint

_MAX_INTEGER_BYTES = 16
_NEWEST_PROTOCOL = 5
_BREAKS = (IndexError, KeyError, TypeError, ValueError, RecursionError, OverflowError, struct.error)


class InertUnpickler:
    """One pickle's machine.

    Args:
        source: Stands at the start of the pickle, and after :meth:`load` just behind it.
        allowed: What the pickle may mention, by module and name.
        budget: Shared by all pickles of the file.
        persistent: Whether it may refer to things outside.

    Attributes:
        persistent_ids: The things outside that it has referred to.
    """

    def __init__(
        self,
        source: ByteSource,
        allowed: Mapping[tuple[str, str], InertGlobal],
        budget: Budget,
        *,
        persistent: bool = False,
    ) -> None:
        self._source = source
        self._allowed = allowed
        self._budget = budget
        self._persistent = persistent
        self.persistent_ids: list[PersistentId] = []
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Return the object, made of plain values, :class:`Region`, and the records of this module.

        Raises:
            CorruptCheckpoint: The pickle is truncated or malformed, mentions a global that is not allowed, uses an
                operation that official files do not, or exceeds the budget.
        """
        try:
            while (code := self._source.read(1)) != b".":
                self._budget.operations -= 1
                if self._budget.operations < 0:
                    raise self._source.refuse("it has far more objects than any official file")
                if code not in _OPERATIONS:
                    raise self._source.refuse(f"it uses the pickle operation {_name_of(code)}, official files do not")
                _OPERATIONS[code](self)
            if len(self._stack) != 1 or self._marks:
                raise self._source.refuse("its pickle ends in the middle of an object")
            return self._stack[0]
        except _BREAKS as error:
            if isinstance(error, CorruptCheckpoint):
                raise
            raise self._source.refuse(f"its pickle is malformed ({type(error).__name__})") from error

    def unpack(self, layout: str) -> Any:
        """Return the next number."""
        return struct.unpack(layout, self._source.read(struct.calcsize(layout)))[0]

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the topmost value from the stack; values below a mark are out of reach."""
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise IndexError
        return self._stack.pop()

    def top(self) -> Any:
        """Return the topmost value."""
        if self._marks and len(self._stack) <= self._marks[-1]:
            raise IndexError
        return self._stack[-1]

    def mark(self) -> None:
        """Remember the height of the stack."""
        self._marks.append(len(self._stack))

    def pop_to_mark(self) -> list[Any]:
        """Take what was put on the stack since the last mark."""
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def drop(self) -> None:
        """Forget the topmost value."""
        self.pop()

    def drop_to_mark(self) -> None:
        """Forget what was put on the stack since the last mark."""
        self.pop_to_mark()

    def protocol(self) -> None:
        """Check the protocol's number."""
        version = self.unpack("<B")
        if version > _NEWEST_PROTOCOL:
            raise self._source.refuse(f"it is a pickle of protocol {version}, known are those up to {_NEWEST_PROTOCOL}")

    def frame(self) -> None:
        """Check that the announced frame lies in the file; frames mean nothing else here."""
        if self.unpack("<Q") > self._source.remaining:
            raise self._source.refuse("it has a frame that ends beyond the file: it is truncated")

    def text(self, length: int) -> None:
        """Push the next ``length`` bytes as a string."""
        self._budget.text_bytes -= length
        if self._budget.text_bytes < 0:
            raise self._source.refuse("it has far more text than any official file")
        self.push(self._source.read(length).decode())

    def region(self, length: int) -> None:
        """Push where the next ``length`` bytes are."""
        self.push(self._source.skip(length))

    def integer(self) -> None:
        """Push an integer of any (small) number of bytes."""
        length = self.unpack("<B")
        if length > _MAX_INTEGER_BYTES:
            raise self._source.refuse(f"it has an integer of {length} bytes")
        self.push(int.from_bytes(self._source.read(length), "little", signed=True))

    def add_tuple(self, values: list[Any]) -> None:
        """Push values as a tuple."""
        self.push(tuple(values))

    def pop_many(self, count: int) -> list[Any]:
        """Take ``count`` values from the stack, lowest first."""
        return [self.pop() for _ in range(count)][::-1]

    def append(self, values: list[Any]) -> None:
        """Append to the list on top."""
        target = self.top()
        if type(target) is not list:
            raise TypeError
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        """Set items of the dictionary on top."""
        target = self.top()
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_text_key(key)] = value

    def add_items(self, values: list[Any]) -> None:
        """Add to the set on top."""
        target = self.top()
        if type(target) is not set:
            raise TypeError
        target.update(_text_key(value) for value in values)

    def read_global(self) -> None:
        """Push the global that the next two lines name."""
        self.find_global(self._source.read_line(), self._source.read_line())

    def find_global(self, module: Any, name: Any) -> None:
        """Push a global by its name, which must be allowed."""
        found = self._allowed.get((module, name))
        if found is None:
            raise self._source.refuse(
                f"it mentions {_short(module)}.{_short(name)}, which is not among what official checkpoints consist of"
            )
        self.push(found)

    def call(self) -> None:
        """Record a call."""
        arguments, function = self.pop(), self.pop()
        self._construct(function, arguments, function.calls if isinstance(function, InertGlobal) else False)

    def instantiate(self) -> None:
        """Record the construction of an instance."""
        arguments, function = self.pop(), self.pop()
        self._construct(function, arguments, function.makes if isinstance(function, InertGlobal) else False)

    def _construct(self, function: Any, arguments: Any, permitted: bool) -> None:
        if not permitted or type(arguments) is not tuple:
            called = function.name if isinstance(function, InertGlobal) else f"a {type(function).__name__}"
            raise self._source.refuse(f"it calls {called}")
        if not function.as_dict:
            self.push(InertObject(function.name, arguments))
        elif not arguments:
            self.push(InertDict())
        else:
            raise self._source.refuse(f"it makes a {function.name} from {len(arguments)} arguments")

    def build(self) -> None:
        """Record a state."""
        state, target = self.pop(), self.top()
        if isinstance(target, InertObject) and target.state is None:
            target.state = state
        elif not isinstance(target, InertDict):
            raise self._source.refuse("it sets the state of something that has none")

    def persistent_id(self) -> None:
        """Record a reference to the outside."""
        if not self._persistent:
            raise self._source.refuse("it refers to something outside itself")
        identifier = PersistentId(self.pop())
        self.persistent_ids.append(identifier)
        self.push(identifier)

    def remember(self, index: int) -> None:
        """Store the topmost value in the memo."""
        self._memo[index] = self.top()

    def remember_next(self) -> None:
        """Store the topmost value at the end of the memo."""
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        """Push a value from the memo."""
        self.push(self._memo[index])


def _text_key(key: Any) -> str:
    # The hash of a tuple of tuples of … takes exponential time when each holds the last one twice, and integers can be
    # chosen to have one hash; that of a text is salted.
    if type(key) is not str:
        raise TypeError
    return key


def _short(name: Any) -> str:
    return repr(name[:80])[1:-1] if isinstance(name, str) else f"a {type(name).__name__}"


def _name_of(code: bytes) -> str:
    names = [operation.name for operation in opcodes if operation.code == code.decode("latin-1")]
    return names[0] if names else f"{code.hex()}, which does not exist"


_OPERATIONS: Mapping[bytes, Callable[[InertUnpickler], None]] = {
    b"\x80": InertUnpickler.protocol,
    b"\x95": InertUnpickler.frame,
    b"(": InertUnpickler.mark,
    b"0": InertUnpickler.drop,
    b"1": InertUnpickler.drop_to_mark,
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"J": lambda machine: machine.push(machine.unpack("<i")),
    b"K": lambda machine: machine.push(machine.unpack("<B")),
    b"M": lambda machine: machine.push(machine.unpack("<H")),
    b"\x8a": InertUnpickler.integer,
    b"G": lambda machine: machine.push(machine.unpack(">d")),
    b"\x8c": lambda machine: machine.text(machine.unpack("<B")),
    b"X": lambda machine: machine.text(machine.unpack("<I")),
    b"\x8d": lambda machine: machine.text(machine.unpack("<Q")),
    b"C": lambda machine: machine.region(machine.unpack("<B")),
    b"B": lambda machine: machine.region(machine.unpack("<I")),
    b"\x8e": lambda machine: machine.region(machine.unpack("<Q")),
    b")": lambda machine: machine.push(()),
    b"\x85": lambda machine: machine.add_tuple(machine.pop_many(1)),
    b"\x86": lambda machine: machine.add_tuple(machine.pop_many(2)),
    b"\x87": lambda machine: machine.add_tuple(machine.pop_many(3)),
    b"t": lambda machine: machine.add_tuple(machine.pop_to_mark()),
    b"]": lambda machine: machine.push([]),
    b"a": lambda machine: machine.append(machine.pop_many(1)),
    b"e": lambda machine: machine.append(machine.pop_to_mark()),
    b"}": lambda machine: machine.push({}),
    b"s": lambda machine: machine.set_items(machine.pop_many(2)),
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),
    b"\x8f": lambda machine: machine.push(set()),
    b"\x90": lambda machine: machine.add_items(machine.pop_to_mark()),
    b"c": InertUnpickler.read_global,
    b"\x93": lambda machine: machine.find_global(*machine.pop_many(2)),
    b"R": InertUnpickler.call,
    b"\x81": InertUnpickler.instantiate,
    b"b": InertUnpickler.build,
    b"Q": InertUnpickler.persistent_id,
    b"\x94": InertUnpickler.remember_next,
    b"q": lambda machine: machine.remember(machine.unpack("<B")),
    b"r": lambda machine: machine.remember(machine.unpack("<I")),
    b"h": lambda machine: machine.recall(machine.unpack("<B")),
    b"j": lambda machine: machine.recall(machine.unpack("<I")),
}

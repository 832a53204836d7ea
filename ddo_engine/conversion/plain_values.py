"""Numbers, texts and lists out of the records of a pickle, as JSON has them; and numpy's arrays."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddo_engine.conversion.byte_source import ByteSource, Region
from ddo_engine.conversion.inert_objects import InertObject
from ddo_engine.conversion.official_globals import ARRAYS, DTYPE, SCALARS

_DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_MAX_VALUES = 10_000
_MAX_DEPTH = 16
_MAX_TEXT = 4096


class PlainReader:
    """Turns records into plain values; the number of values over its life is bounded.

    Args:
        source: Where the bytes of numpy's values lie.
        most_numbers: In one array.
    """

    def __init__(self, source: ByteSource, most_numbers: int = _MAX_VALUES) -> None:
        self._source = source
        self._most_numbers = most_numbers
        self._left = _MAX_VALUES

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return a value as JSON has it: tuples and arrays as lists, numpy's numbers as numbers.

        Raises:
            CorruptCheckpoint: It is not such a value, is infinite or NaN, nested deeply, or of very many parts.
        """
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            raise self._source.refuse("its configuration has far more parts than any official one")
        if isinstance(value, InertObject) and value.kind in SCALARS + ARRAYS:
            value = self._scalar(value) if value.kind in SCALARS else self.array(value).tolist()
        if isinstance(value, list | tuple) and not isinstance(value, Region):
            return [self.plain(item, depth + 1) for item in value]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: self.plain(item, depth + 1) for key, item in value.items()}
        is_number = isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value))
        if is_number or (isinstance(value, str) and len(value) <= _MAX_TEXT):
            return value
        raise self._source.refuse(f"its configuration has {_described(value)} where a plain value should be")

    def _scalar(self, record: InertObject) -> Any:
        if len(record.arguments) != 2:
            raise self._source.refuse("its number is not one that numpy writes")
        return self._numbers(*record.arguments, 1)[0].item()

    def array(self, record: Any) -> NDArray[Any]:
        """Return an array of numbers.

        Raises:
            CorruptCheckpoint: It is none, or has too many.
        """
        state = record.state if isinstance(record, InertObject) and record.kind in ARRAYS else None
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple):
            raise self._source.refuse("its array is not one that numpy writes")
        _, shape, dtype, column_major, data = state
        if not all(type(size) is int and 0 <= size <= self._most_numbers for size in shape) or len(shape) > 4:
            raise self._source.refuse("its array has an impossible shape")
        numbers = self._numbers(dtype, data, math.prod(shape))
        return numbers.reshape(shape, order="F" if column_major else "C")

    def _numbers(self, dtype: Any, data: Any, count: int) -> NDArray[Any]:
        """Return ``count`` numbers as a flat array."""
        if not isinstance(dtype, InertObject) or dtype.kind != DTYPE or not isinstance(dtype.state, tuple):
            raise self._source.refuse("its number has no dtype")
        name, order = dtype.arguments[0] if dtype.arguments else None, dtype.state[1:2]
        if type(name) is not str or name not in _DTYPES or order not in (("<",), ("|",)):
            described = repr(name[:40]) if type(name) is str else _described(name)
            raise self._source.refuse(f"its number is of the dtype {described}, or not little-endian")
        kind = np.dtype(f"<{name}")
        if not isinstance(data, Region) or data.length != count * kind.itemsize or count > self._most_numbers:
            raise self._source.refuse("its number has not the bytes of its dtype")
        return np.frombuffer(self._source.inside(data).read(data.length), kind)


def _described(value: Any) -> str:
    if isinstance(value, InertObject):
        return f"a {value.kind}"
    return repr(value) if isinstance(value, float) else f"a {type(value).__name__}"

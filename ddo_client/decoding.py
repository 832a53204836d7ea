"""From decoded JSON to the dataclasses of ``ddo_client.models``."""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ddo_client.errors import UnexpectedAnswer

T = TypeVar("T")


def decode(kind: type[T], value: object) -> T:
    """Return ``value``, decoded JSON, as an instance of the dataclass ``kind``.

    Raises:
        UnexpectedAnswer: A field is missing or of another type; names it.
    """
    decoded: T = _decoder(kind)(value, kind.__name__)  # type: ignore[arg-type]
    return decoded


@cache
def _decoder(kind: Any) -> Callable[[Any, str], Any]:
    origin = get_origin(kind)
    if kind is Any:
        return lambda value, where: value
    if is_dataclass(kind):
        return _dataclass_decoder(kind)
    if origin is not None:
        return _generic_decoder(origin, get_args(kind))
    if kind is datetime:
        return _decode_datetime
    numbers = (int, float) if kind is float else kind
    return lambda value, where: kind(_checked(numbers, value, where))


def _generic_decoder(origin: Any, arguments: tuple[Any, ...]) -> Callable[[Any, str], Any]:
    if origin in (Union, types.UnionType):
        if set(arguments) == {float, str}:
            return lambda value, where: value if isinstance(value, str) else _decoder(float)(value, where)
        (inner,) = [_decoder(argument) for argument in arguments if argument is not type(None)]
        return lambda value, where: None if value is None else inner(value, where)
    if origin is tuple:
        item = _decoder(arguments[0])
        return lambda value, where: tuple(
            item(entry, f"{where}[{index}]") for index, entry in enumerate(_checked(list, value, where))
        )
    assert origin is dict
    entry = _decoder(arguments[1])
    return lambda value, where: {
        name: entry(inside, f"{where}.{name}") for name, inside in _checked(dict, value, where).items()
    }


def _dataclass_decoder(kind: Any) -> Callable[[Any, str], Any]:
    hints = get_type_hints(kind)
    required = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    decoders = {field.name: _decoder(hints[field.name]) for field in fields(kind)}

    def decode_fields(value: Any, where: str) -> Any:
        given: Mapping[str, Any] = _checked(dict, value, where)
        if missing := [name for name in required if name not in given]:
            raise UnexpectedAnswer(f"the service's answer lacks {where}.{missing[0]}: is this client too new for it?")
        known = {name: given[name] for name in decoders if name in given}
        return kind(**{name: decoders[name](inside, f"{where}.{name}") for name, inside in known.items()})

    return decode_fields


def _decode_datetime(value: Any, where: str) -> datetime:
    try:
        return datetime.fromisoformat(_checked(str, value, where))
    except ValueError as error:
        raise UnexpectedAnswer(f"the service's answer holds no time in {where}: {value!r}") from error


def _checked(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UnexpectedAnswer(f"the service's answer holds {type(value).__name__} in {where}")
    return value

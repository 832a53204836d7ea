"""Pydantic's findings in the words of the API: a dotted ``param`` and a sentence that says what to do."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from ddo_engine.spec import as_written
from service.api.problems import FieldError, Unprocessable

_MAX_ERRORS = 50
_MAX_PARAM = 200
_ROOT_PARAM = re.compile(r"([a-z_][A-Za-z0-9_.\[\]]*): ")


def _number(words: str, key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda context: f"Give a number {words} {context[key]}."


_SENTENCES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "This field is required: give it, or name a preset that fills it.",
    "greater_than": _number("above", "gt"),
    "greater_than_equal": _number("of at least", "ge"),
    "less_than": _number("below", "lt"),
    "less_than_equal": _number("of at most", "le"),
    "finite_number": lambda _: "Give a finite number.",
    "int_parsing": lambda _: "Give a whole number.",
    "int_type": lambda _: "Give a whole number.",
    "int_from_float": lambda _: "Give a whole number, without a fraction.",
    "int_parsing_size": lambda _: "Give a smaller whole number.",
    "float_parsing": lambda _: "Give a number.",
    "float_type": lambda _: "Give a number.",
    "bool_parsing": lambda _: "Give true or false.",
    "bool_type": lambda _: "Give true or false.",
    "string_type": lambda _: "Give a string.",
    "string_too_short": lambda context: f"Give at least {context['min_length']} characters.",
    "string_too_long": lambda context: f"Give at most {context['max_length']} characters.",
    "too_short": lambda context: f"Give at least {context['min_length']} values.",
    "too_long": lambda context: f"Give at most {context['max_length']} values.",
    "string_pattern_mismatch": lambda context: f"Give a string that matches {context['pattern']}.",
    "tuple_type": lambda _: "Give a list.",
    "list_type": lambda _: "Give a list.",
    "dict_type": lambda _: "Give an object.",
    "model_type": lambda _: "Give a JSON object.",
    "enum": lambda context: f"Give one of {context['expected']}.",
    "literal_error": lambda context: f"Give one of {context['expected']}.",
}


def param_of(location: Sequence[int | str]) -> str | None:
    """Return ``grid.alpha[1]`` for ``("grid", "alpha", 1)``; None for the whole body."""
    param = ""
    for part in location:
        if part == "[key]":
            continue
        param += f"[{part}]" if isinstance(part, int) else f".{part}" if param else part
    return param[:_MAX_PARAM] or None


def unprocessable(findings: Iterable[Any], *, skip: int = 0, fields: frozenset[str] = frozenset()) -> Unprocessable:
    """Return the error for what pydantic found.

    Args:
        findings: ``ValidationError.errors()``.
        skip: Leading parts of each location to leave out (FastAPI's ``query``, ``path``).
        fields: Names that exist, to suggest one for a misspelt field.
    """
    errors = [_field_error(finding, skip, fields) for finding in _causes(list(findings))[:_MAX_ERRORS]]
    first = errors[0]
    where = f"{first.param}: " if first.param else ""
    more = f" ({len(errors)} errors in all.)" if len(errors) > 1 else ""
    return Unprocessable(f"{where}{first.message}{more}", param=first.param, errors=errors)


def _causes(findings: Sequence[Any]) -> list[Any]:
    """Leave out lists that are too short only because pydantic dropped their wrong items."""

    def is_consequence(finding: Any) -> bool:
        location = finding["loc"]
        return finding["type"] == "too_short" and any(
            len(other["loc"]) > len(location) and other["loc"][: len(location)] == location for other in findings
        )

    return [finding for finding in findings if not is_consequence(finding)]


def _field_error(finding: Mapping[str, Any], skip: int, fields: frozenset[str]) -> FieldError:
    kind, location, message = finding["type"], as_written(finding["loc"][skip:]), finding["msg"]
    param = param_of(location)
    if kind == "value_error":
        message = str(finding["ctx"]["error"])
        if param is None and (named := _ROOT_PARAM.match(message)):
            param, message = named[1], message[named.end() :]
        message = f"{message[:1].upper()}{message[1:]}."
    elif kind == "extra_forbidden":
        message = f"There is no such field: remove it{_suggestion(str(location[-1]), fields)}."
    elif kind == "string_pattern_mismatch" and "[a-z][a-z0-9+.-]*:" in finding["ctx"]["pattern"]:
        message = "Give a URI with a scheme and no spaces: file:///folder/name or s3://bucket/key."
    elif kind in _SENTENCES:
        message = _SENTENCES[kind](finding.get("ctx", {}))
    else:
        message = f"{message}."
    return FieldError(param=param, code=kind, message=message)


def _suggestion(name: str, fields: frozenset[str]) -> str:
    close = difflib.get_close_matches(name[:64], fields, n=1)
    return f", or write '{close[0]}'" if close else ""


def field_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of all fields of ``model`` and of the models inside it."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            names |= field_names(inner)
    return frozenset(names)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def converted(given: Any, accepted: Any, location: tuple[int | str, ...] = ()) -> list[FieldError]:
    """Find values that pydantic turned into another JSON type: ``"3"`` or ``true`` where a number belongs.

    Args:
        given: The parsed JSON, presets filled in.
        accepted: The validated model, dumped as JSON again.
        location: Where both are in the body.
    """
    if isinstance(given, dict) and isinstance(accepted, dict):
        pairs: Iterable[tuple[int | str, Any, Any]] = (
            (key, given[key], accepted[key]) for key in given if key in accepted
        )
    elif isinstance(given, list) and isinstance(accepted, list):
        pairs = ((index, *pair) for index, pair in enumerate(zip(given, accepted, strict=True)))
    elif _json_type(given) == _json_type(accepted):
        return []
    else:
        message = f"Give a {_json_type(accepted)}, not a {_json_type(given)}."
        return [FieldError(param=param_of(location), code="wrong_type", message=message)]
    return [error for key, mine, theirs in pairs for error in converted(mine, theirs, (*location, key))]


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    names = {str: "string", list: "list", dict: "object", type(None): "null"}
    return names[type(value)]


def unstorable(value: Any, location: tuple[int | str, ...] = ()) -> FieldError | None:
    """Find the first string with a NUL character, which Postgres does not store."""
    if isinstance(value, str):
        if "\0" not in value:
            return None
        return FieldError(
            param=param_of(location),
            code="nul_character",
            message="Remove the NUL character (\\u0000) from this string.",
        )
    items: Iterable[tuple[int | str, Any]] = ()
    if isinstance(value, dict):
        if any("\0" in key for key in value):
            return FieldError(
                param=param_of(location),
                code="nul_character",
                message="Remove the NUL character (\\u0000) from the field's name.",
            )
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return next((error for key, item in items if (error := unstorable(item, (*location, key)))), None)

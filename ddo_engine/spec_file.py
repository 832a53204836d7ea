"""Read a unit's spec file, and refuse it in words that name the field. Imports no torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ddo_engine.errors import InvalidSpec
from ddo_engine.spec import FileRef, Settings, as_written

SpecT = TypeVar("SpecT", bound=Settings)


def read_spec(path: Path, model: type[SpecT]) -> SpecT:
    """Read and validate a spec file, and see that the files it names exist.

    Raises:
        InvalidSpec: Naming the first offending field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"the spec file {path} cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"the spec file {path} is not JSON ({error})") from error
    try:
        spec = model.model_validate(content)
    except ValidationError as error:
        raise refusal_of(error, content) from error
    _require_files(spec)
    return spec


def refusal_of(error: ValidationError, content: Any) -> InvalidSpec:
    """Return the error that names the first offending field of what was validated."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = _field_name(as_written(first["loc"]), content)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return InvalidSpec(f"{param}: {message}{more}" if param else f"{message}{more}", param=param or None)


def _field_name(location: Sequence[int | str], content: Any) -> str:
    """Return the field as it is written in the file: pydantic also names which kind of a union it tried."""
    names: list[str] = []
    for index, part in enumerate(location):
        inside = content.get(part) if isinstance(content, dict) else None
        if isinstance(content, list) and isinstance(part, int) and part < len(content):
            inside = content[part]
        if inside is None and index < len(location) - 1:
            continue
        names.append(str(part))
        content = inside
    return ".".join(names)


def _require_files(value: object, name: str = "") -> None:
    if isinstance(value, FileRef):
        if value.path is not None and not Path(value.path).is_file():
            raise InvalidSpec(f"{name}: there is no file {value.path}", param=name)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            _require_files(item, f"{name}.{index}")
    elif isinstance(value, Settings):
        for field in type(value).model_fields:
            _require_files(getattr(value, field), f"{name}.{field}" if name else field)

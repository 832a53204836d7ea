"""Foundations of the contract: strict models, and files that a unit reads."""

from collections.abc import Callable
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

PositiveFloat = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Uri = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[a-z][a-z0-9+.-]*:\S+$")]

UriOrInception = Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^(inception|[a-z][a-z0-9+.-]*:\S+)$")]


class Settings(BaseModel):
    """Base of all settings: unknown fields, NaN and infinities are refused; instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileRef(Settings):
    """A file that a unit reads: where it comes from, and where it lies once fetched.

    A bare string in JSON is a local path, so that specs written by hand stay short.
    """

    uri: UriOrInception | None = None
    sha256: Sha256 | None = None
    size_bytes: int | None = Field(default=None, ge=0)
    path: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _path_from_string(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _points_somewhere(self) -> Self:
        if self.uri is None and self.path is None:
            raise ValueError("a file needs a path or a uri")
        return self


SpecT = TypeVar("SpecT", bound=Settings)


def map_files(spec: SpecT, replace: Callable[[FileRef], FileRef]) -> SpecT:
    """Return ``spec`` with every file that it names replaced by ``replace(file)``."""

    def walk(value: Any) -> Any:
        if isinstance(value, FileRef):
            return replace(value)
        if isinstance(value, tuple):
            return tuple(walk(item) for item in value)
        if isinstance(value, Settings):
            return value.model_copy(update={name: walk(getattr(value, name)) for name in type(value).model_fields})
        return value

    return spec.model_copy(update={name: walk(getattr(spec, name)) for name in type(spec).model_fields})

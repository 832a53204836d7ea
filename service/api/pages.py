"""Lists, a page at a time."""

from typing import Annotated, Generic, TypeVar

from fastapi import Path, Query
from pydantic import BaseModel, Field

Item = TypeVar("Item")

MAX_INDEX = 2**31 - 1

Limit = Annotated[int, Query(ge=1, le=100, description="Items a page.")]
RoundIndex = Annotated[int, Path(ge=0, le=MAX_INDEX, description="Round; 0 is the base checkpoint.")]
TrialIndex = Annotated[int, Path(ge=0, le=MAX_INDEX, description="Trial within the round, from 0.")]
JobId = Annotated[str, Path(description="`job_…`", examples=["job_0198f3a1b2c3d4e5f60718293a"])]


class Listed(BaseModel, Generic[Item]):
    """A whole list."""

    data: list[Item]


class Page(BaseModel, Generic[Item]):
    """One page of a list; pass ``next_after`` as ``after`` to get the next one."""

    data: list[Item]
    has_more: bool
    next_after: str | None = Field(default=None, description="Cursor of the next page; null on the last one.")

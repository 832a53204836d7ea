"""Events as clients see them."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class Event(BaseModel):
    """Something that happened to a job. Ids of a job's events only grow."""

    id: int
    type: str = Field(description="`job.…`, `round.…`, `unit.…`.", examples=["round.completed"])
    unit_id: str | None
    data: dict[str, Any]
    created_at: datetime

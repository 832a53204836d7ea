"""``/jobs/{id}/events``: the event log in pages, or live as a stream of server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session, sessionmaker
from sse_starlette import EventSourceResponse, ServerSentEvent

from service.api.dependencies import CallerDep, Sessions
from service.api.events import repository
from service.api.events.schemas import Event
from service.api.jobs.repository import find_job
from service.api.pages import JobId, Page
from service.api.problems import NotFound, Unauthorized, Unprocessable, documented

router = APIRouter(tags=["events"])

_BATCH = 500
_POLL_SECONDS = 0.5
_MAX_ID = 2**63 - 1

EventId = Annotated[int | None, Query(ge=0, le=_MAX_ID, description="Only events with a larger id.")]


@router.get(
    "/jobs/{job_id}/events",
    response_model=Page[Event],
    responses={
        200: {
            "description": "A page of events; with `Accept: text/event-stream` a stream that ends with the job.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        **documented(Unauthorized, NotFound, Unprocessable),
    },
)
def read_events(
    job_id: JobId,
    caller: CallerDep,
    sessions: Sessions,
    after: EventId = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events a page.")] = 100,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        int | None, Header(ge=0, le=_MAX_ID, description="Where a broken stream goes on; wins over `after`.")
    ] = None,
) -> Page[Event] | Response:
    """Read what happened to a job, oldest first; with `Accept: text/event-stream` also follow it live."""
    start = last_event_id if last_event_id is not None else after or 0
    with sessions() as session:
        find_job(session, caller.tenant_id, job_id)
        if "text/event-stream" not in accept.lower():
            rows = repository.events_after(session, job_id, start, limit + 1)
            data = [Event.model_validate(row, from_attributes=True) for row in rows[:limit]]
            has_more = len(rows) > limit
            return Page(data=data, has_more=has_more, next_after=str(data[-1].id) if has_more else None)
    return EventSourceResponse(_follow(sessions, job_id, start), ping=15, send_timeout=30)


async def _follow(sessions: sessionmaker[Session], job_id: str, last_id: int) -> AsyncIterator[ServerSentEvent]:
    while True:
        events, is_over = await run_in_threadpool(_next_batch, sessions, job_id, last_id)
        for event in events:
            yield ServerSentEvent(event.model_dump_json(), event=event.type, id=str(event.id))
            last_id = event.id
        if is_over:
            return
        if not events:
            await asyncio.sleep(_POLL_SECONDS)


def _next_batch(sessions: sessionmaker[Session], job_id: str, last_id: int) -> tuple[list[Event], bool]:
    with sessions() as session:
        # asked first: once the job has ended, the events read next are the last ones
        ended = repository.has_ended(session, job_id)
        rows = repository.events_after(session, job_id, last_id, _BATCH)
        return [Event.model_validate(row, from_attributes=True) for row in rows], ended and len(rows) < _BATCH

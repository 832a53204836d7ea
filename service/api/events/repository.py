"""All SQL about events.

Whoever appends to a job's log holds the job's row lock (``service.lifecycle``): ids become visible in their order, so
that "everything after id n" misses nothing.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.models import Event, Job
from service.statuses import JOB_ENDED


def events_after(session: Session, job_id: str, after: int, limit: int) -> Sequence[Event]:
    """Return up to ``limit`` events of a job with larger ids, in order."""
    query = select(Event).where(Event.job_id == job_id, Event.id > after)
    return session.scalars(query.order_by(Event.id).limit(limit)).all()


def has_ended(session: Session, job_id: str) -> bool:
    """Tell whether the job has reached its last status."""
    return session.scalar(select(Job.status).where(Job.id == job_id)) in JOB_ENDED

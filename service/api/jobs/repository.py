"""All SQL about jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.api.problems import NotFound, Unprocessable
from service.api.rankings import ranked_checkpoints
from service.ids import new_id
from service.models import Checkpoint, Event, Job, Round, WorkUnit
from service.statuses import JobStatus, RoundStatus, UnitStatus


@dataclass(frozen=True)
class Standing:
    """Where a job stands: FIDs under its ranking protocol, and finished rounds."""

    base_fid: float | None = None
    best_fid: float | None = None
    best_checkpoint_id: str | None = None
    rounds_completed: int = 0


@dataclass(frozen=True)
class RunningRow:
    """A unit that a worker holds, with the round it belongs to."""

    unit: WorkUnit
    round_index: int | None


@dataclass(frozen=True)
class ParentRow:
    """The checkpoint of another job that a job starts from."""

    checkpoint_id: str
    job_id: str
    round_index: int


def find_job(session: Session, tenant_id: str, job_id: str) -> Job:
    """Return the tenant's job.

    Raises:
        NotFound: There is none of that id, or it is another tenant's.
    """
    # Postgres takes no NUL in a parameter
    job = None if "\0" in job_id else session.get(Job, job_id)
    if job is None or job.tenant_id != tenant_id:
        raise NotFound("There is no such job; GET /jobs lists yours.")
    return job


def list_jobs(
    session: Session, tenant_id: str, *, statuses: Sequence[JobStatus], after: str | None, limit: int
) -> tuple[Sequence[Job], bool]:
    """Return a page of jobs, newest first, and whether there are more.

    Raises:
        Unprocessable: ``after`` is not the id of one of the tenant's jobs.
    """
    query = select(Job).where(Job.tenant_id == tenant_id)
    if statuses:
        query = query.where(Job.status.in_(statuses))
    if after is not None:
        try:
            last = find_job(session, tenant_id, after)
        except NotFound as error:
            raise Unprocessable(
                "after: Give the next_after of the page before.", code="invalid_cursor", param="after"
            ) from error
        query = query.where(tuple_(Job.created_at, Job.id) < tuple_(last.created_at, last.id))
    jobs = session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit + 1)).all()
    return jobs[:limit], len(jobs) > limit


def standings(session: Session, job_ids: Sequence[str]) -> dict[str, Standing]:
    """Return where each of the jobs stands."""
    ranked = ranked_checkpoints(job_ids)
    base_fids: dict[str, float] = {}
    best: dict[str, tuple[float, str]] = {}
    for row in session.execute(select(ranked).where((ranked.c.rank == 1) | ranked.c.is_base)):
        if row.is_base:
            base_fids[row.job_id] = row.fid
        if row.rank == 1:
            best[row.job_id] = (row.fid, row.checkpoint_id)
    completed = dict(
        session.execute(
            select(Round.job_id, func.count())
            .where(Round.job_id.in_(job_ids), Round.round_index > 0, Round.status == RoundStatus.COMPLETED)
            .group_by(Round.job_id)
        ).all()
    )
    found: dict[str, Standing] = {}
    for job_id in job_ids:
        best_fid, best_id = best.get(job_id, (None, None))
        found[job_id] = Standing(base_fids.get(job_id), best_fid, best_id, completed.get(job_id, 0))
    return found


def parents(session: Session, jobs: Sequence[Job]) -> dict[str, ParentRow]:
    """Return where those of the jobs come from that start from a checkpoint of another."""
    query = (
        select(Job.id, Checkpoint.id, Checkpoint.job_id, Round.round_index)
        .join(Checkpoint, Checkpoint.id == Job.parent_checkpoint_id)
        .join(Round, Round.id == Checkpoint.round_id)
        .where(Job.id.in_([job.id for job in jobs if job.parent_checkpoint_id is not None]))
    )
    return {
        job_id: ParentRow(checkpoint_id, parent_job_id, round_index)
        for job_id, checkpoint_id, parent_job_id, round_index in session.execute(query)
    }


def succeeded_units(session: Session, job_id: str) -> dict[tuple[str, int | None, int | None], int]:
    """Return how many units have succeeded, by kind, round and baseline."""
    place = (WorkUnit.kind, Round.round_index, WorkUnit.baseline_index)
    query = (
        select(*place, func.count())
        .outerjoin(Round, Round.id == WorkUnit.round_id)
        .where(WorkUnit.job_id == job_id, WorkUnit.status == UnitStatus.SUCCEEDED)
        .group_by(*place)
    )
    return {(kind, round_, baseline): count for kind, round_, baseline, count in session.execute(query)}


def running_units(session: Session, job_id: str) -> list[RunningRow]:
    """Return the units that workers hold now."""
    query = (
        select(WorkUnit, Round.round_index)
        .outerjoin(Round, Round.id == WorkUnit.round_id)
        .where(WorkUnit.job_id == job_id, WorkUnit.status == UnitStatus.RUNNING)
        .order_by(WorkUnit.created_at, WorkUnit.id)
    )
    return [RunningRow(unit, round_index) for unit, round_index in session.execute(query)]


def find_by_idempotency_key(session: Session, tenant_id: str, key: str) -> Job | None:
    """Return the job that was created under this key."""
    return session.scalar(select(Job).where(Job.tenant_id == tenant_id, Job.idempotency_key == key))


def insert_job(
    session: Session,
    tenant_id: str,
    *,
    spec: dict[str, Any],
    parent_checkpoint_id: str | None,
    idempotency_key: str | None,
    request_hash: str,
) -> str | None:
    """Add a job with its first event, and return its id; None if the idempotency key is taken.

    Waits for a concurrent transaction that uses the same key.
    """
    job_id = session.scalar(
        insert(Job)
        .values(
            id=new_id("job"),
            tenant_id=tenant_id,
            status=JobStatus.VALIDATING,
            spec=spec,
            parent_checkpoint_id=parent_checkpoint_id,
            idempotency_key=idempotency_key,
            request_hash=request_hash,
        )
        .on_conflict_do_nothing(index_elements=["tenant_id", "idempotency_key"])
        .returning(Job.id)
    )
    if job_id is not None:
        session.add(Event(job_id=job_id, type=f"job.{JobStatus.VALIDATING}", data={}))
        session.flush()
    return job_id

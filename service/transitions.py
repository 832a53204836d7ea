"""The only writer of ``status``: guarded by the source status, with its event in the same transaction."""

from typing import Any

from sqlalchemy import func, update
from sqlalchemy.orm import Session

from service.models import Event, Job, Round, WorkUnit
from service.statuses import JOB_ENDED, UNIT_ENDED, JobStatus, RoundStatus, UnitStatus, sources_of

_TOLD = ("termination_reason", "termination_message", "error")
_ROUND_ENDED = frozenset({RoundStatus.COMPLETED, RoundStatus.FAILED, RoundStatus.CANCELLED})


class LeaseLostError(Exception):
    """Another attempt owns the unit, or it was cancelled: stop the engine and write nothing more."""


def add_event(session: Session, job_id: str, type_: str, *, unit_id: str | None = None, **data: Any) -> None:
    """Append to the job's event log."""
    session.add(Event(job_id=job_id, unit_id=unit_id, type=type_, data=data))


def move_job(session: Session, job_id: str, target: JobStatus, **values: Any) -> bool:
    """Move a job to ``target`` if the table allows it; say whether it moved.

    Args:
        values: Further columns to set in the same statement (``error``, ``termination_reason``, …).
    """
    if target in JOB_ENDED:
        values["finished_at"] = func.clock_timestamp()
    if target is JobStatus.RUNNING:
        values["started_at"] = func.coalesce(Job.started_at, func.clock_timestamp())
    moved = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.status.in_(sources_of(target)))
        .values(status=target, **values)
        .returning(Job.id)
        .execution_options(synchronize_session="fetch")
    )
    if moved is not None:
        told = {name: values[name] for name in _TOLD if values.get(name) is not None}
        add_event(session, job_id, f"job.{target}", **told)
    return moved is not None


def move_round(session: Session, round_: Round, target: RoundStatus, **values: Any) -> bool:
    """Move a round to ``target`` if the table allows it; say whether it moved."""
    if target in _ROUND_ENDED:
        values["finished_at"] = func.clock_timestamp()
    moved = session.scalar(
        update(Round)
        .where(Round.id == round_.id, Round.status.in_(sources_of(target)))
        .values(status=target, **values)
        .returning(Round.id)
        .execution_options(synchronize_session="fetch")
    )
    if moved is not None:
        told = {"winner_checkpoint_id": values["winner_checkpoint_id"]} if values.get("winner_checkpoint_id") else {}
        add_event(session, round_.job_id, f"round.{target}", round_index=round_.round_index, **told)
    return moved is not None


def move_unit(
    session: Session,
    unit_id: str,
    target: UnitStatus,
    *,
    attempt: int | None = None,
    told: dict[str, Any] | None = None,
    **values: Any,
) -> WorkUnit:
    """Move a unit to ``target``; ``running`` begins a new attempt.

    Args:
        attempt: The fencing token: the move happens only if the unit is still in this attempt.
        told: What the event says beside the status.
        values: Further columns to set in the same statement.

    Raises:
        LeaseLostError: The unit is in another attempt, or its status does not allow the move.
    """
    guards = [WorkUnit.id == unit_id, WorkUnit.status.in_(sources_of(target))]
    if attempt is not None:
        guards.append(WorkUnit.attempt == attempt)
    if target in UNIT_ENDED:
        values["finished_at"] = func.clock_timestamp()
    if target is UnitStatus.RUNNING:
        values |= {
            "attempt": WorkUnit.attempt + 1,
            "started_at": func.coalesce(WorkUnit.started_at, func.clock_timestamp()),
        }
    else:
        values |= {"lease_owner": None, "lease_expires_at": None}
    unit = session.scalar(
        update(WorkUnit)
        .where(*guards)
        .values(status=target, **values)
        .returning(WorkUnit)
        .execution_options(synchronize_session="fetch")
    )
    if unit is None:
        raise LeaseLostError(unit_id)
    add_event(
        session, unit.job_id, f"unit.{target}", unit_id=unit_id, kind=unit.kind, attempt=unit.attempt, **(told or {})
    )
    return unit

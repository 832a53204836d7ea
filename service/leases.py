"""The life of one attempt at a unit: claim, heartbeat, end. ``attempt`` fences every write after the claim.

    claim ──> heartbeat … ──> finish | fail | crash | release | stop
                 └─ silence: the reconciler calls ``expire``

A call that raises LeaseLostError has changed nothing: another attempt owns the unit, so kill the engine and go.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from ddo_engine.spec import UNIT_SPEC, DiscriminatorSpec, FileRef, TrainSpec, UnitSpec
from service.failures import ATTEMPTS_EXHAUSTED
from service.lifecycle import advance, lock_job
from service.models import Job, Round, WorkUnit
from service.statuses import JobStatus, UnitKind, UnitStatus
from service.transitions import LeaseLostError, move_job, move_unit

# Units of jobs in these states may be worked on.
_WORKING = (JobStatus.VALIDATING, JobStatus.QUEUED, JobStatus.RUNNING)
# A lost worker is more often the machine's fault than the unit's, so it is given more attempts than a crash.
_EXTRA_ATTEMPTS_IF_LOST = 2
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
# How long a unit of the rounds waits before a baseline's gives way: an idle worker would have taken it by then.
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Claim:
    """One attempt at one unit: what to do, and the token of every write about it."""

    unit_id: str
    attempt: int
    job_id: str
    tenant_id: str
    kind: UnitKind
    round_index: int | None
    position: int
    baseline_index: int | None
    spec: UnitSpec
    state: FileRef | None
    state_kimg: float | None


def is_waiting(session: Session, unit_id: str) -> bool:
    """Say whether a unit still waits for a worker; a doorbell for any other is stale."""
    return session.scalar(select(WorkUnit.status).where(WorkUnit.id == unit_id)) == UnitStatus.QUEUED


def claim(session: Session, worker: str, lease_seconds: float, unit_id: str | None = None) -> Claim | None:
    """Take a queued unit: the given one, or the one whose turn it is.

    The turn goes to the tenant with the fewest running units, then to the unit that waits longest, so that one
    tenant's large grid does not keep all others waiting. Units of baselines come after all that serve rounds.

    Args:
        worker: Name of the caller, for people.
        lease_seconds: The unit is the caller's for so long, unless renewed.

    Returns:
        The claim, or None: nothing waits, or others were faster.
    """
    candidates = [unit_id] if unit_id is not None else _next_in_turn(session)
    for candidate in candidates:
        claimed = _claim_one(session, worker, lease_seconds, candidate)
        if claimed is not None:
            return claimed
    return None


def _next_in_turn(session: Session, count: int = 8) -> list[str]:
    busy = (
        select(Job.tenant_id, func.count().label("running"))
        .join(WorkUnit, WorkUnit.job_id == Job.id)
        .where(WorkUnit.status == UnitStatus.RUNNING)
        .group_by(Job.tenant_id)
        .subquery()
    )
    statement = (
        select(WorkUnit.id)
        .join(Job, Job.id == WorkUnit.job_id)
        .outerjoin(busy, busy.c.tenant_id == Job.tenant_id)
        .where(WorkUnit.status == UnitStatus.QUEUED, WorkUnit.run_after <= func.clock_timestamp())
        .where(Job.status.in_(_WORKING))
        .order_by(
            WorkUnit.baseline_index.is_not(None), func.coalesce(busy.c.running, 0), WorkUnit.run_after, WorkUnit.id
        )
        .limit(count)
    )
    return list(session.scalars(statement))


def _claim_one(session: Session, worker: str, lease_seconds: float, unit_id: str) -> Claim | None:
    job_id = session.scalar(select(WorkUnit.job_id).where(WorkUnit.id == unit_id))
    if job_id is None:
        return None
    job = lock_job(session, job_id)
    due = select(WorkUnit.id).where(WorkUnit.id == unit_id, WorkUnit.run_after <= func.clock_timestamp())
    if job.status not in _WORKING or session.scalar(due) is None:
        return None
    try:
        unit = move_unit(
            session,
            unit_id,
            UnitStatus.RUNNING,
            told={"worker": worker},
            lease_owner=worker,
            lease_expires_at=_from_now(lease_seconds),
        )
    except LeaseLostError:
        return None
    if unit.kind != UnitKind.VALIDATE and job.status == JobStatus.QUEUED:
        move_job(session, job.id, JobStatus.RUNNING)
    return Claim(
        unit_id=unit.id,
        attempt=unit.attempt,
        job_id=job.id,
        tenant_id=job.tenant_id,
        kind=UnitKind(unit.kind),
        round_index=session.scalar(select(Round.round_index).where(Round.id == unit.round_id)),
        position=unit.position,
        baseline_index=unit.baseline_index,
        spec=UNIT_SPEC.validate_python(unit.spec),
        state=None if unit.state is None else FileRef.model_validate(unit.state),
        state_kimg=unit.state_kimg,
    )


def heartbeat(session: Session, claim: Claim, lease_seconds: float) -> bool:
    """Renew the lease.

    Returns:
        Whether the unit shall be cancelled.

    Raises:
        LeaseLostError: The lease is another's by now.
    """
    cancel_requested: bool | None = session.scalar(
        update(WorkUnit)
        .where(*_held(claim))
        .values(lease_expires_at=_from_now(lease_seconds))
        .returning(WorkUnit.cancel_requested)
    )
    if cancel_requested is None:
        raise LeaseLostError(claim.unit_id)
    return cancel_requested


def shall_give_way(session: Session, claim: Claim) -> bool:
    """Tell whether a baseline's training is in the way of the rounds: units of theirs wait, and no place is free.

    Only what resumes where it was gives way, and no more of it than places are wanted.
    """
    if claim.baseline_index is None or not isinstance(claim.spec, TrainSpec | DiscriminatorSpec):
        return False
    long_ago = func.clock_timestamp() - timedelta(seconds=_PATIENCE_SECONDS)
    waiting = (
        select(func.count())
        .select_from(WorkUnit)
        .join(Job, Job.id == WorkUnit.job_id)
        .where(WorkUnit.status == UnitStatus.QUEUED, WorkUnit.baseline_index.is_(None), WorkUnit.run_after < long_ago)
        .where(Job.status.in_(_WORKING))
    )
    resumable = (UnitKind.BASELINE_TRIAL, UnitKind.BASELINE_DISCRIMINATOR)
    before_it = select(func.count()).where(
        WorkUnit.status == UnitStatus.RUNNING, WorkUnit.kind.in_(resumable), WorkUnit.id < claim.unit_id
    )
    return (session.scalar(waiting) or 0) > (session.scalar(before_it) or 0)


def hold(session: Session, claim: Claim) -> WorkUnit:
    """Lock job and unit for a write of this attempt, in that order.

    Raises:
        LeaseLostError: The lease is another's by now.
    """
    lock_job(session, claim.job_id)
    statement = select(WorkUnit).where(*_held(claim)).with_for_update()
    unit = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if unit is None:
        raise LeaseLostError(claim.unit_id)
    return unit


def finish(session: Session, claim: Claim, **values: Any) -> list[str]:
    """The unit did all it was told; go on with its job.

    Args:
        values: Further columns of the unit to set.

    Returns:
        Units to ring for once the transaction is committed; so do all the following.

    Raises:
        LeaseLostError: As do all the following.
    """
    hold(session, claim)
    move_unit(session, claim.unit_id, UnitStatus.SUCCEEDED, attempt=claim.attempt, error=None, **values)
    return advance(session, claim.job_id)


def fail(session: Session, claim: Claim, error: dict[str, Any]) -> list[str]:
    """The unit failed in a way that no further attempt can change."""
    hold(session, claim)
    _fail(session, claim.unit_id, claim.attempt, error)
    return advance(session, claim.job_id)


def crash(session: Session, claim: Claim, error: dict[str, Any], *, max_crashes: int) -> list[str]:
    """The attempt ended without a result and may be repeated, unless that happened too often without progress."""
    unit = hold(session, claim)
    return _try_again(session, unit, error, max_crashes=max_crashes)


def lose(session: Session, claim: Claim, error: dict[str, Any], *, max_crashes: int) -> list[str]:
    """The attempt ended for a reason outside the unit: storage, disk, network. Counts like a lost worker."""
    unit = hold(session, claim)
    return _try_again(session, unit, error, max_crashes=max_crashes + _EXTRA_ATTEMPTS_IF_LOST)


def release(session: Session, claim: Claim) -> list[str]:
    """The worker must stop: the unit goes on elsewhere, at once and at no cost."""
    unit = hold(session, claim)
    if unit.cancel_requested:
        return _stop(session, unit)
    move_unit(
        session,
        unit.id,
        UnitStatus.QUEUED,
        attempt=unit.attempt,
        told={"reason": "preempted"},
        run_after=func.clock_timestamp(),
        rung_at=func.clock_timestamp(),
    )
    return [unit.id]


def stop(session: Session, claim: Claim) -> list[str]:
    """The unit was cancelled and its engine is gone."""
    return _stop(session, hold(session, claim))


def expire(session: Session, unit_id: str, attempt: int, *, max_crashes: int) -> list[str]:
    """Take a unit from a worker that has been silent for longer than its lease.

    Raises:
        LeaseLostError: It is in another attempt, has ended, or its lease was renewed meanwhile.
    """
    job_id = session.scalar(select(WorkUnit.job_id).where(WorkUnit.id == unit_id))
    if job_id is None:
        raise LeaseLostError(unit_id)
    lock_job(session, job_id)
    statement = (
        select(WorkUnit)
        .where(WorkUnit.id == unit_id, WorkUnit.attempt == attempt, WorkUnit.status == UnitStatus.RUNNING)
        .where(WorkUnit.lease_expires_at < func.clock_timestamp())
        .with_for_update()
    )
    unit = session.scalars(statement.execution_options(populate_existing=True)).one_or_none()
    if unit is None:
        raise LeaseLostError(unit_id)
    error = {"code": "worker_lost", "message": f"worker {unit.lease_owner} fell silent"}
    return _try_again(session, unit, error, max_crashes=max_crashes + _EXTRA_ATTEMPTS_IF_LOST, at_once=True)


def _try_again(
    session: Session, unit: WorkUnit, error: dict[str, Any], *, max_crashes: int, at_once: bool = False
) -> list[str]:
    if unit.cancel_requested:
        return _stop(session, unit)
    crashes = unit.crashes + 1
    if crashes >= max_crashes:
        message = f"gave up after {crashes} attempts without progress; the last one: {error.get('message')}"
        exhausted = {**error, "code": ATTEMPTS_EXHAUSTED, "message": message}
        _fail(session, unit.id, unit.attempt, exhausted, crashes=crashes)
        return advance(session, unit.job_id)
    pause = 0.0 if at_once else min(_FIRST_PAUSE_SECONDS * 2 ** (crashes - 1), _LONGEST_PAUSE_SECONDS)
    move_unit(
        session,
        unit.id,
        UnitStatus.QUEUED,
        attempt=unit.attempt,
        told={"reason": error.get("code"), "message": error.get("message"), "crashes": crashes},
        crashes=crashes,
        error=error,
        run_after=_from_now(pause),
        rung_at=func.clock_timestamp() if at_once else None,
    )
    return [unit.id] if at_once else []


def _fail(session: Session, unit_id: str, attempt: int, error: dict[str, Any], **values: Any) -> None:
    told = {"error": {name: error.get(name) for name in ("code", "message", "param")}}
    move_unit(session, unit_id, UnitStatus.FAILED, attempt=attempt, told=told, error=error, **values)


def _stop(session: Session, unit: WorkUnit) -> list[str]:
    move_unit(session, unit.id, UnitStatus.CANCELLED, attempt=unit.attempt)
    return advance(session, unit.job_id)


def _held(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return (
        WorkUnit.id == claim.unit_id,
        WorkUnit.attempt == claim.attempt,
        WorkUnit.status == UnitStatus.RUNNING,
    )


def _from_now(seconds: float) -> ColumnElement[Any]:
    # clock_timestamp: now() stands still within a transaction
    return func.clock_timestamp() + timedelta(seconds=seconds)

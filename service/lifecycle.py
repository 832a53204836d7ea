"""Carries out the planner's decisions: one job at a time, under its row lock, in the caller's transaction.

Lock order everywhere: first the job's row, then units' rows. Whoever appends to a job's event log holds the job's
row, so that the ids of its events also are the order in which they became visible.
"""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ddo_engine.spec import FileRef, FileRole, JobSpec
from service.job_view import (
    Action,
    CancelUnit,
    CheckpointView,
    CreateRound,
    CreateUnit,
    EvaluationView,
    JobInputs,
    JobView,
    MoveJob,
    MoveRound,
    RoundView,
    UnitView,
)
from service.keys import key_of, object_file
from service.models import Artifact, Checkpoint, Evaluation, Job, Round, Trial, WorkUnit
from service.planner import plan
from service.statuses import JobStatus, RoundStatus, UnitKind, UnitStatus
from service.transitions import add_event, move_job, move_round, move_unit

_PASSED_ON = (FileRole.REFERENCE_SET, FileRole.DISCRIMINATOR)  # files of a unit that later ones read
_MAX_STEPS = 20  # far above the longest chain of steps that one unit's end can set off


def lock_job(session: Session, job_id: str) -> Job:
    """Lock a job's row until the transaction ends and return it as it is now.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such job.
    """
    # NO KEY UPDATE: rows that refer to the job may still be inserted by others meanwhile
    statement = select(Job).where(Job.id == job_id).with_for_update(key_share=True)
    return session.scalars(statement.execution_options(populate_existing=True)).one()


def advance(session: Session, job_id: str) -> list[str]:
    """Do everything that is due for a job.

    Returns:
        Units to ring for once the transaction is committed.
    """
    job = lock_job(session, job_id)
    created: list[str] = []
    for _ in range(_MAX_STEPS):
        actions = plan(_view(session, job))
        if not actions:
            return created
        for action in actions:
            _apply(session, job, action, created)
        session.flush()
        session.refresh(job)
    raise AssertionError(f"the plan of {job_id} does not settle")


def cancel_job(session: Session, job_id: str) -> list[str]:
    """Cancel a job that has not ended: queued units at once, running ones through their workers.

    Cancelling twice, or a job that has ended, changes nothing.

    Returns:
        Units to ring for, as ``advance`` does.
    """
    lock_job(session, job_id)
    move_job(session, job_id, JobStatus.CANCELLING)
    return advance(session, job_id)


def _apply(session: Session, job: Job, action: Action, created: list[str]) -> None:
    match action:
        case CreateRound():
            _create_round(session, job, action)
        case CreateUnit():
            created.append(_create_unit(session, job, action))
        case MoveRound(index=index, target=target, winner_id=winner_id):
            winner = {} if winner_id is None else {"winner_checkpoint_id": winner_id}
            assert move_round(session, _round(session, job, index), target, **winner)
        case MoveJob(target=target, reason=reason, message=message, error=error, best_checkpoint_id=best_id):
            given = {
                "termination_reason": reason,
                "termination_message": message,
                "error": None if error is None else dict(error),
                "best_checkpoint_id": best_id,
            }
            assert move_job(session, job.id, target, **{k: v for k, v in given.items() if v is not None})
        case CancelUnit(unit_id=unit_id):
            _cancel_unit(session, unit_id)


def _create_round(session: Session, job: Job, action: CreateRound) -> None:
    round_ = Round(job_id=job.id, round_index=action.index, reference_checkpoint_id=action.reference_id)
    session.add(round_)
    session.flush()
    add_event(session, job.id, "round.pending", round_index=action.index, reference_checkpoint_id=action.reference_id)
    if action.index == 0:
        inputs = JobInputs.model_validate(job.inputs)
        session.add(
            Checkpoint(
                tenant_id=job.tenant_id,
                job_id=job.id,
                round_id=round_.id,
                parent_checkpoint_id=job.parent_checkpoint_id,
                object_key=key_of(inputs.checkpoint),
                sha256=inputs.checkpoint.sha256,
                size_bytes=inputs.checkpoint.size_bytes,
                manifest=inputs.checkpoint_info.model_dump(mode="json"),
            )
        )


def _create_unit(session: Session, job: Job, action: CreateUnit) -> str:
    round_ = None if action.round_index is None else _round(session, job, action.round_index)
    unit = WorkUnit(
        job_id=job.id,
        round_id=None if round_ is None else round_.id,
        kind=action.kind,
        position=action.position,
        baseline_index=action.baseline_index,
        spec=action.spec.model_dump(mode="json"),
        rung_at=func.clock_timestamp(),
    )
    session.add(unit)
    session.flush()
    told: dict[str, object] = {"kind": action.kind, "round_index": action.round_index, "position": action.position}
    if action.baseline_index is not None:
        told["baseline_index"] = action.baseline_index
    if action.cell is not None and round_ is not None:
        alpha, beta = action.cell.alpha, action.cell.beta
        number = None if beta == "auto" else beta
        session.add(Trial(round_id=round_.id, trial_index=action.position, unit_id=unit.id, alpha=alpha, beta=number))
        told |= {"alpha": alpha, "beta": beta}
    add_event(session, job.id, "unit.created", unit_id=unit.id, **told)
    return unit.id


def _cancel_unit(session: Session, unit_id: str) -> None:
    unit = session.scalars(
        select(WorkUnit).where(WorkUnit.id == unit_id).with_for_update().execution_options(populate_existing=True)
    ).one()
    if unit.status == UnitStatus.QUEUED:
        move_unit(session, unit_id, UnitStatus.CANCELLED)
    elif unit.status == UnitStatus.RUNNING and not unit.cancel_requested:
        unit.cancel_requested = True
        add_event(session, unit.job_id, "unit.cancel_requested", unit_id=unit_id)


def _round(session: Session, job: Job, index: int) -> Round:
    return session.scalars(select(Round).where(Round.job_id == job.id, Round.round_index == index)).one()


def _view(session: Session, job: Job) -> JobView:
    rounds = session.scalars(select(Round).where(Round.job_id == job.id).order_by(Round.round_index)).all()
    indices = {round_.id: round_.round_index for round_ in rounds}
    artifacts = {
        row.unit_id: object_file(row.object_key, sha256=row.sha256, size_bytes=row.size_bytes)
        for row in session.scalars(
            select(Artifact).join(WorkUnit).where(WorkUnit.job_id == job.id, Artifact.role.in_(_PASSED_ON))
        )
    }
    units = session.execute(
        select(
            WorkUnit.id,
            WorkUnit.kind,
            WorkUnit.round_id,
            WorkUnit.position,
            WorkUnit.status,
            WorkUnit.cancel_requested,
            WorkUnit.error,
            WorkUnit.baseline_index,
        )
        .where(WorkUnit.job_id == job.id)
        .order_by(WorkUnit.created_at, WorkUnit.id)
    )
    evaluations = _evaluations(session, job)
    return JobView(
        id=job.id,
        status=JobStatus(job.status),
        spec=JobSpec.model_validate(job.spec),
        parent=_parent(session, job),
        inputs=None if job.inputs is None else JobInputs.model_validate(job.inputs),
        rounds=tuple(
            RoundView(
                index=row.round_index,
                status=RoundStatus(row.status),
                reference_id=row.reference_checkpoint_id,
                winner_id=row.winner_checkpoint_id,
            )
            for row in rounds
        ),
        units=tuple(
            UnitView(
                id=row.id,
                kind=UnitKind(row.kind),
                round_index=None if row.round_id is None else indices[row.round_id],
                position=row.position,
                status=UnitStatus(row.status),
                cancel_requested=row.cancel_requested,
                error=row.error,
                artifact=artifacts.get(row.id),
                baseline_index=row.baseline_index,
            )
            for row in units
        ),
        checkpoints=_checkpoints(session, job),
        evaluations=evaluations,
        protocols=_protocols(session, job, {row.fingerprint for row in evaluations}),
    )


def _parent(session: Session, job: Job) -> FileRef | None:
    if job.parent_checkpoint_id is None:
        return None
    row = session.get_one(Checkpoint, job.parent_checkpoint_id)
    return object_file(row.object_key, sha256=row.sha256, size_bytes=row.size_bytes)


def _checkpoints(session: Session, job: Job) -> tuple[CheckpointView, ...]:
    columns = (Checkpoint.id, Checkpoint.unit_id, Checkpoint.object_key, Checkpoint.sha256, Checkpoint.size_bytes)
    return tuple(
        CheckpointView(row.id, row.unit_id, object_file(row.object_key, sha256=row.sha256, size_bytes=row.size_bytes))
        for row in session.execute(select(*columns).where(Checkpoint.job_id == job.id))
    )


def _evaluations(session: Session, job: Job) -> tuple[EvaluationView, ...]:
    return tuple(
        EvaluationView(
            unit_id=row.unit_id,
            checkpoint_id=row.checkpoint_id,
            kimg=row.kimg,
            fingerprint=row.fingerprint,
            fid=row.fid,
            num_samples=row.num_samples,
            seed=row.seed,
            guidance_scale=row.guidance_scale,
        )
        for row in session.execute(
            select(
                Evaluation.unit_id,
                Evaluation.checkpoint_id,
                Evaluation.kimg,
                Evaluation.fingerprint,
                Evaluation.metrics["fid"].as_float().label("fid"),
                Evaluation.protocol["num_samples"].as_integer().label("num_samples"),
                Evaluation.protocol["seed"].as_integer().label("seed"),
                Evaluation.protocol[("sampler", "guidance_scale")].as_float().label("guidance_scale"),
            ).where(Evaluation.job_id == job.id, Evaluation.checkpoint_id.is_not(None))
        )
    )


def _protocols(session: Session, job: Job, fingerprints: set[str]) -> dict[str, dict[str, Any]]:
    if len(fingerprints) < 2:
        return {}
    first = select(func.min(Evaluation.id)).where(Evaluation.job_id == job.id).group_by(Evaluation.fingerprint)
    query = select(Evaluation.fingerprint, Evaluation.protocol).where(Evaluation.id.in_(first))
    return {row.fingerprint: row.protocol for row in session.execute(query)}

"""Jobs that start from a checkpoint of another: ``checkpoint:ckpt_…`` as base, and the spec that a branch inherits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from ddo_engine.presets import overlaid
from ddo_engine.spec import JobSpec
from service.api.checkpoints.repository import best_checkpoint
from service.api.jobs.repository import find_job
from service.api.problems import Conflict, Unprocessable
from service.api.validation import unprocessable
from service.models import Checkpoint, Job, Round

CHECKPOINT_SCHEME = "checkpoint:"
# What a branch has of its own: its name, where it starts, and what it is compared with. Baselines start from the base,
# and that of the job has had its own.
_NOT_INHERITED = ("name", "base_checkpoint", "baselines")
NOT_IN_BRANCHES: Mapping[str, str] = {
    "base_checkpoint": "a branch starts from a checkpoint of the job: give from_round or from_checkpoint; POST /jobs "
    "starts from a file, or from 'checkpoint:ckpt_…'",
    "preset": "a branch has the settings of its job: give the fields that change",
}


class BranchPoint(BaseModel):
    """Where in a job a branch starts."""

    model_config = ConfigDict(extra="ignore", strict=True)

    from_round: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="From the winner of this round; 0 is the base. Null: see from_checkpoint.",
    )
    from_checkpoint: str | None = Field(
        default=None,
        max_length=40,
        description="From this checkpoint of the job, whether it won or not. Neither: from the job's best.",
    )


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a job starts from."""

    checkpoint: Checkpoint
    round_index: int


def find_parent(session: Session, tenant_id: str, spec: JobSpec) -> Parent | None:
    """Return the checkpoint of ours that ``base_checkpoint`` names; None if it names a file.

    Raises:
        Unprocessable: There is none of that id, or it is another tenant's.
    """
    if not spec.base_checkpoint.startswith(CHECKPOINT_SCHEME):
        return None
    found = _find(session, spec.base_checkpoint.removeprefix(CHECKPOINT_SCHEME))
    if found is None or found.checkpoint.tenant_id != tenant_id:
        raise _no_such_checkpoint("base_checkpoint")
    return found


def branched_body(session: Session, tenant_id: str, job_id: str, body: Any) -> dict[str, Any]:
    """Return the body of ``POST /jobs`` that a branch of a job amounts to.

    It goes on as the job would have gone on after the round that the checkpoint is of; fields of the body win.

    Raises:
        NotFound: There is no such job, or nothing of it was measured yet.
        Unprocessable: The body names no checkpoint of the job, or fields that a branch does not have.
        Conflict: The round has no winner yet.
    """
    job = find_job(session, tenant_id, job_id)
    point, changes = _parsed(body)
    start = _start(session, job, point)
    inherited = JobSpec.model_validate(job.spec).after_round(start.round_index).model_dump(mode="json")
    for field in _NOT_INHERITED:
        inherited.pop(field)
    return overlaid(inherited, changes) | {"base_checkpoint": f"{CHECKPOINT_SCHEME}{start.checkpoint.id}"}


def _parsed(body: Any) -> tuple[BranchPoint, dict[str, Any]]:
    try:
        point = BranchPoint.model_validate(body)
    except ValidationError as error:
        raise unprocessable(error.errors()) from error
    if point.from_round is not None and point.from_checkpoint is not None:
        raise Unprocessable("from_checkpoint: Give from_round or from_checkpoint, not both.", param="from_checkpoint")
    changes = {name: value for name, value in body.items() if name not in BranchPoint.model_fields}
    for field, advice in NOT_IN_BRANCHES.items():
        if field in changes:
            raise Unprocessable(f"{field}: {advice[:1].upper()}{advice[1:]}.", param=field)
    return point, changes


def _start(session: Session, job: Job, point: BranchPoint) -> Parent:
    if point.from_checkpoint is not None:
        found = _find(session, point.from_checkpoint)
        if found is None or found.checkpoint.job_id != job.id:
            raise _no_such_checkpoint("from_checkpoint")
        return found
    if point.from_round is None:
        best = best_checkpoint(session, job.id)
        return Parent(best.checkpoint, best.round_index)
    round_ = session.scalar(select(Round).where(Round.job_id == job.id, Round.round_index == point.from_round))
    if round_ is None:
        raise Unprocessable(
            f"from_round: The job has no round {point.from_round} (yet); GET /jobs/{{id}}/rounds lists those it has.",
            code="no_such_round",
            param="from_round",
        )
    if round_.winner_checkpoint_id is None:
        raise Conflict(
            f"Round {point.from_round} has no winner: wait until it is completed, or give from_checkpoint.",
            code="round_has_no_winner",
            param="from_round",
        )
    return Parent(session.get_one(Checkpoint, round_.winner_checkpoint_id), point.from_round)


def _find(session: Session, checkpoint_id: str) -> Parent | None:
    # Postgres takes no NUL in a parameter
    checkpoint = None if "\0" in checkpoint_id else session.get(Checkpoint, checkpoint_id)
    if checkpoint is None:
        return None
    return Parent(checkpoint, session.get_one(Round, checkpoint.round_id).round_index)


def _no_such_checkpoint(param: str) -> Unprocessable:
    return Unprocessable(
        f"{param}: There is no such checkpoint; GET /jobs/{{id}}/checkpoints lists a job's.",
        code="no_such_checkpoint",
        param=param,
    )

"""All SQL about checkpoints beside one another."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, aliased

from service.models import Checkpoint, Evaluation, Round, Trial, WorkUnit


@dataclass(frozen=True)
class MeasuredCheckpoint:
    """An evaluation with the checkpoint that it is of, and where that comes from."""

    evaluation: Evaluation
    checkpoint: Checkpoint
    round_index: int
    trial: Trial | None
    baseline_index: int | None


def measured_checkpoints(session: Session, tenant_id: str, ids: Sequence[str]) -> dict[str, list[MeasuredCheckpoint]]:
    """Return the evaluations that each id stands for, in the order that they were measured in.

    Args:
        session: To read with.
        tenant_id: Whose checkpoints count.
        ids: Of checkpoints, which stand for all of their evaluations, and of evaluations.

    Returns:
        None for an id that is not known. A base checkpoint does not stand for what its job's baselines measured, whose
        samples are drawn by other means.
    """
    trained_by, measured_by = aliased(WorkUnit), aliased(WorkUnit)
    query = (
        select(Evaluation, Checkpoint, Round.round_index, Trial, trained_by.baseline_index)
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .join(Round, Round.id == Checkpoint.round_id)
        .join(measured_by, measured_by.id == Evaluation.unit_id)
        .outerjoin(Trial, Trial.unit_id == Checkpoint.unit_id)
        .outerjoin(trained_by, trained_by.id == Checkpoint.unit_id)
        .where(Checkpoint.tenant_id == tenant_id)
        .order_by(Evaluation.created_at, Evaluation.id)
    )
    its_own = or_(Checkpoint.unit_id.is_not(None), measured_by.baseline_index.is_(None))
    rows = session.execute(query.where(or_(Evaluation.id.in_(ids), Checkpoint.id.in_(ids) & its_own)))
    measured = [MeasuredCheckpoint(*row) for row in rows]
    return {
        id_: found
        for id_ in ids
        if (found := [row for row in measured if id_ in (row.evaluation.id, row.checkpoint.id)])
    }


def is_checkpoint(session: Session, tenant_id: str, checkpoint_id: str) -> bool:
    """Return whether the tenant has a checkpoint of that id."""
    query = select(Checkpoint.id).where(Checkpoint.id == checkpoint_id, Checkpoint.tenant_id == tenant_id)
    return session.scalar(query) is not None

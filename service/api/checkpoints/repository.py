"""All SQL about checkpoints."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.api.problems import NotFound
from service.api.rankings import ranked_checkpoints
from service.models import Checkpoint, Evaluation, Round, Trial, WorkUnit


@dataclass(frozen=True)
class CheckpointRow:
    """A checkpoint with where it comes from and how it ranks."""

    checkpoint: Checkpoint
    round_index: int
    trial: Trial | None
    baseline_index: int | None
    rank: int | None
    fid: float | None


def list_checkpoints(session: Session, job_id: str, *, only: ColumnElement[bool] | None = None) -> list[CheckpointRow]:
    """Return a job's checkpoints, ranked ones first and best first, the others by training, baselines' last."""
    ranked = ranked_checkpoints([job_id])
    query = (
        select(Checkpoint, Round.round_index, Trial, WorkUnit.baseline_index, ranked.c.rank, ranked.c.fid)
        .join(Round, Round.id == Checkpoint.round_id)
        .outerjoin(Trial, Trial.unit_id == Checkpoint.unit_id)
        .outerjoin(WorkUnit, WorkUnit.id == Checkpoint.unit_id)
        .outerjoin(ranked, ranked.c.checkpoint_id == Checkpoint.id)
        .where(Checkpoint.job_id == job_id)
        .order_by(ranked.c.rank.nulls_last(), WorkUnit.baseline_index.nulls_first())
        .order_by(Round.round_index, Trial.trial_index, Checkpoint.kimg, Checkpoint.id)
    )
    if only is not None:
        query = query.where(only)
    return [CheckpointRow(*row) for row in session.execute(query)]


def best_checkpoint(session: Session, job_id: str) -> CheckpointRow:
    """Return the checkpoint with the lowest FID by the ranking protocol; the base counts.

    Raises:
        NotFound: Nothing has been measured yet.
    """
    rows = list_checkpoints(session, job_id)
    if not rows or rows[0].rank is None:
        raise NotFound(
            "No checkpoint of this job has been measured yet; wait for round 0.", code="nothing_measured_yet"
        )
    return rows[0]


def find_checkpoint(session: Session, tenant_id: str, checkpoint_id: str) -> CheckpointRow:
    """Return the tenant's checkpoint.

    Raises:
        NotFound: There is none of that id, or it is another tenant's.
    """
    found = None if "\0" in checkpoint_id else session.get(Checkpoint, checkpoint_id)
    if found is None or found.tenant_id != tenant_id:
        raise NotFound("There is no such checkpoint; GET /jobs/{id}/checkpoints lists a job's.")
    return list_checkpoints(session, found.job_id, only=Checkpoint.id == checkpoint_id)[0]


def evaluations_of(session: Session, job_id: str) -> dict[str, list[Evaluation]]:
    """Return the evaluations of a job's checkpoints, by checkpoint; of the base without those that baselines are."""
    found: dict[str, list[Evaluation]] = defaultdict(list)
    query = (
        select(Evaluation)
        .join(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
        .join(WorkUnit, WorkUnit.id == Evaluation.unit_id)
        .where(Evaluation.job_id == job_id, Checkpoint.unit_id.is_not(None) | WorkUnit.baseline_index.is_(None))
    )
    for row in session.scalars(query.order_by(Evaluation.created_at, Evaluation.id)):
        found[str(row.checkpoint_id)].append(row)
    return found


def lineages(session: Session, job_id: str) -> dict[str, list[str]]:
    """Return for each checkpoint of a job the ids from the base to itself, through all jobs that it branched from."""
    columns = (Checkpoint.id, Checkpoint.parent_checkpoint_id, Checkpoint.job_id)
    chains = select(*columns).where(Checkpoint.job_id == job_id).cte("chains", recursive=True)
    chains = chains.union(select(*columns).join(chains, Checkpoint.id == chains.c.parent_checkpoint_id))
    rows = session.execute(select(chains)).all()
    parents = {row.id: row.parent_checkpoint_id for row in rows}

    def chain(checkpoint_id: str) -> Sequence[str]:
        ids: list[str] = []
        current: str | None = checkpoint_id
        while current is not None and current not in ids:
            ids.append(current)
            current = parents.get(current)
        return ids[::-1]

    return {row.id: list(chain(row.id)) for row in rows if row.job_id == job_id}

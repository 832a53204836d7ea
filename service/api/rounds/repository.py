"""All SQL about rounds and trials."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.problems import NotFound
from service.api.rankings import best_of_trials, ranked_checkpoints
from service.models import Checkpoint, Evaluation, Round, TrainingMetric, Trial, WorkUnit


@dataclass(frozen=True)
class Chain:
    """The rounds of a job with everything that is shown of them.

    Attributes:
        rounds: In order.
        trials: By round, in order, each with its unit.
        best: A trial's best evaluation by the search protocol, by unit.
        ranked: A checkpoint's evaluation by the ranking protocol, by checkpoint.
        winners: The rounds' winning checkpoints by id.
        evaluations: All that was measured of the winners and of the trials' best checkpoints, by checkpoint.
    """

    rounds: Sequence[Round]
    trials: dict[str, list[tuple[Trial, WorkUnit]]]
    best: dict[str, Evaluation]
    ranked: dict[str, Evaluation]
    winners: dict[str, Checkpoint]
    evaluations: dict[str, list[Evaluation]]


def load_chain(session: Session, job_id: str, round_index: int | None = None) -> Chain:
    """Return all rounds of a job, or one.

    Raises:
        NotFound: The round asked for does not exist (yet).
    """
    query = select(Round).where(Round.job_id == job_id).order_by(Round.round_index)
    if round_index is not None:
        query = query.where(Round.round_index == round_index)
    rounds = session.scalars(query).all()
    if round_index is not None and not rounds:
        raise NotFound("The job has no such round (yet); GET /jobs/{id}/rounds lists those it has.")
    round_ids = [round_.id for round_ in rounds]
    trials: dict[str, list[tuple[Trial, WorkUnit]]] = {round_id: [] for round_id in round_ids}
    for trial, unit in session.execute(
        select(Trial, WorkUnit)
        .join(WorkUnit, WorkUnit.id == Trial.unit_id)
        .where(Trial.round_id.in_(round_ids))
        .order_by(Trial.trial_index)
    ):
        trials[trial.round_id].append((trial, unit))
    best_rows = best_of_trials(round_ids)
    best = session.scalars(select(Evaluation).join(best_rows, best_rows.c.evaluation_id == Evaluation.id)).all()
    ranked = ranked_checkpoints([job_id])
    winner_ids = [round_.winner_checkpoint_id for round_ in rounds if round_.winner_checkpoint_id]
    return Chain(
        rounds=rounds,
        trials=trials,
        best={row.unit_id: row for row in best},
        ranked={
            row.checkpoint_id: row
            for row in session.scalars(select(Evaluation).join(ranked, ranked.c.evaluation_id == Evaluation.id))
            if row.checkpoint_id is not None
        },
        winners={row.id: row for row in session.scalars(select(Checkpoint).where(Checkpoint.id.in_(winner_ids)))},
        evaluations=_evaluations_of(session, [*winner_ids, *(row.checkpoint_id for row in best if row.checkpoint_id)]),
    )


def _evaluations_of(session: Session, checkpoint_ids: Sequence[str]) -> dict[str, list[Evaluation]]:
    """Return what was measured of checkpoints, in order; not what baselines have made of the base."""
    query = (
        select(Evaluation)
        .join(WorkUnit, WorkUnit.id == Evaluation.unit_id)
        .where(Evaluation.checkpoint_id.in_(checkpoint_ids), WorkUnit.baseline_index.is_(None))
        .order_by(Evaluation.created_at, Evaluation.id)
    )
    found: dict[str, list[Evaluation]] = {}
    for row in session.scalars(query):
        found.setdefault(str(row.checkpoint_id), []).append(row)
    return found


def find_trial(session: Session, job_id: str, round_index: int, trial_index: int) -> Trial:
    """Return one trial.

    Raises:
        NotFound: It does not exist (yet).
    """
    trial = session.scalar(
        select(Trial)
        .join(Round, Round.id == Trial.round_id)
        .where(Round.job_id == job_id, Round.round_index == round_index, Trial.trial_index == trial_index)
    )
    if trial is None:
        raise NotFound("The job has no such trial (yet); GET /jobs/{id}/rounds lists those it has.")
    return trial


def training_metrics(
    session: Session, unit_id: str, *, since_kimg: float | None, limit: int
) -> tuple[Sequence[TrainingMetric], bool]:
    """Return the diagnostics after ``since_kimg`` in order, and whether there are more than ``limit``."""
    query = select(TrainingMetric).where(TrainingMetric.unit_id == unit_id)
    if since_kimg is not None:
        query = query.where(TrainingMetric.kimg > since_kimg)
    rows = session.scalars(query.order_by(TrainingMetric.step).limit(limit + 1)).all()
    return rows[:limit], len(rows) > limit


def evaluations(
    session: Session, unit_id: str, *, since_kimg: float | None, until_kimg: float | None
) -> Sequence[Evaluation]:
    """Return a unit's evaluations in ``(since_kimg, until_kimg]`` in order."""
    query = select(Evaluation).where(Evaluation.unit_id == unit_id)
    if since_kimg is not None:
        query = query.where(Evaluation.kimg > since_kimg)
    if until_kimg is not None:
        query = query.where(Evaluation.kimg <= until_kimg)
    return session.scalars(query.order_by(Evaluation.kimg, Evaluation.id)).all()

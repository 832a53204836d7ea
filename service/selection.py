"""Which checkpoint of a round is best. FIDs are compared only under one and the same protocol."""

from dataclasses import dataclass

from ddo_engine.spec import EvaluationSettings, JobSpec
from service.job_view import EvaluationView, JobView, RoundView
from service.statuses import UnitKind


class InconsistentRowsError(Exception):
    """Rows that a decision needs are missing, or come from different protocols: a defect, not a bad job."""


@dataclass(frozen=True)
class DecidingFids:
    """The FIDs that decide a round, all under one protocol.

    Attributes:
        candidates: By checkpoint id, in order of the grid.
        reference_fid: Of the round's reference.
        fingerprint: Of the protocol.
    """

    candidates: dict[str, float]
    reference_fid: float
    fingerprint: str


def deciding_protocol(spec: JobSpec) -> EvaluationSettings:
    """Return the evaluation that a job ranks with: the confirming one where it has one."""
    return spec.evaluation if spec.confirm is None else confirm_protocol(spec)


def judging_protocols(spec: JobSpec) -> list[EvaluationSettings]:
    """Return the evaluations that whatever a job judges goes through: the search's, and the confirming one."""
    return [spec.evaluation] if spec.confirm is None else [spec.evaluation, confirm_protocol(spec)]


def confirm_protocol(spec: JobSpec) -> EvaluationSettings:
    """Return the larger evaluation that decides between finalists."""
    assert spec.confirm is not None
    return spec.evaluation.model_copy(
        update={"num_samples": spec.confirm.num_samples, "seed": spec.confirm.seed},
    )


def finalists(job: JobView, round_index: int) -> list[str]:
    """Return the best checkpoint of each trial of a round, best first, ranked by the search protocol.

    Raises:
        InconsistentRowsError: The trials were measured under different protocols.
    """
    best: dict[str, EvaluationView] = {}
    for row in _of_kind(job, UnitKind.TRIAL, round_index):
        best[row.unit_id] = min(best.get(row.unit_id, row), row, key=_fid)
    return [row.checkpoint_id for row in sorted(best.values(), key=_fid)]


def deciding_fids(job: JobView, current: RoundView) -> DecidingFids:
    """Return the FIDs that decide a round: of its candidates, and of its reference.

    Raises:
        InconsistentRowsError: Protocols differ, or a number is missing.
    """
    kind = UnitKind.TRIAL if job.spec.confirm is None else UnitKind.CONFIRM
    rows = _of_kind(job, kind, current.index)
    if not rows:
        raise InconsistentRowsError(f"round {current.index} has no FID to decide by")
    fingerprint = rows[0].fingerprint
    reference = [
        row for row in job.evaluations if row.checkpoint_id == current.reference_id and row.fingerprint == fingerprint
    ]
    if not reference:
        raise InconsistentRowsError(
            f"the reference of round {current.index} has no FID under protocol {fingerprint[:12]}"
        )
    return DecidingFids({row.checkpoint_id: _fid(row) for row in rows}, _fid(reference[0]), fingerprint)


def _of_kind(job: JobView, kind: UnitKind, round_index: int) -> list[EvaluationView]:
    # In order of the grid, then of training: equal FIDs are decided the same way however the workers raced.
    positions = {unit.id: unit.position for unit in job.units_of(kind, round_index)}
    rows = [row for row in job.evaluations if row.unit_id in positions]
    rows.sort(key=lambda row: (positions[row.unit_id], row.kimg))
    if len({row.fingerprint for row in rows}) > 1:
        raise InconsistentRowsError(f"round {round_index} was measured under more than one protocol")
    return rows


def _fid(row: EvaluationView) -> float:
    if row.fid is None:
        raise InconsistentRowsError(f"checkpoint {row.checkpoint_id} was evaluated without a FID")
    return row.fid

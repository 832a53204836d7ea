"""Which checkpoint of a round is best. FIDs are compared only under one and the same protocol.

Where a job ranks by the best scale, a checkpoint's FID is the lowest along its curve, and the curves compared are
measured under the same protocols, one for each scale.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ddo_engine.spec import EvaluationSettings, JobSpec
from service.job_view import EvaluationView, JobView, RoundView
from service.protocol_parts import differing_parts, in_words
from service.statuses import UnitKind


class InconsistentRowsError(Exception):
    """Rows that a decision needs are missing, or come from different protocols: a defect, not a bad job."""


@dataclass(frozen=True)
class DecidingFids:
    """The FIDs that decide a round, all under the same protocols.

    Attributes:
        candidates: By checkpoint id, in order of the grid.
        reference_fid: Of the round's reference.
        fingerprints: Of the protocol, or of those of all scales that rank.
    """

    candidates: dict[str, float]
    reference_fid: float
    fingerprints: frozenset[str]


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
    for row in _of_kind(job, UnitKind.TRIAL, round_index).rows:
        best[row.unit_id] = min(best.get(row.unit_id, row), row, key=_fid)
    return [row.checkpoint_id for row in sorted(best.values(), key=_fid)]


def deciding_fids(job: JobView, current: RoundView) -> DecidingFids:
    """Return the FIDs that decide a round: of its candidates, and of its reference.

    Raises:
        InconsistentRowsError: Protocols differ, or a number is missing.
    """
    kind = UnitKind.TRIAL if job.spec.confirm is None else UnitKind.CONFIRM
    found = _of_kind(job, kind, current.index)
    if not found.rows:
        raise InconsistentRowsError(f"round {current.index} has no FID to decide by")
    of_reference = [row for row in job.evaluations if row.checkpoint_id == current.reference_id]
    by_fingerprint = {row.fingerprint: row for row in of_reference if row.fingerprint in found.fingerprints}
    missing = found.fingerprints - by_fingerprint.keys()
    if missing:
        others = [row.fingerprint for row in of_reference]
        raise InconsistentRowsError(
            f"the reference of round {current.index} has no FID under protocol {min(missing)[:12]}"
            f"{difference(job, others, [min(missing)])}"
        )
    reference_fid = min(_fid(row) for row in by_fingerprint.values())
    return DecidingFids({row.checkpoint_id: _fid(row) for row in found.rows}, reference_fid, found.fingerprints)


def difference(job: JobView, some: Iterable[str], others: Iterable[str]) -> str:
    """Return in what protocols differ, as the end of a sentence; of several pairs, of the two that are most alike.

    Args:
        job: Which knows them.
        some: Fingerprints of numbers that are not ranked ...
        others: ... with those of these.
    """
    known = [
        differing_parts(job.protocols[first], job.protocols[second])
        for first in sorted(some)
        for second in sorted(others)
        if first in job.protocols and second in job.protocols
    ]
    return f": {in_words(min(known, key=len))}" if known else ""


def ranking_rows(spec: JobSpec, rows: Sequence[EvaluationView]) -> list[EvaluationView]:
    """Return the row that each measured checkpoint is ranked by: at the sampler's scale, or that of the lowest FID.

    A checkpoint that was not measured at all scales that rank, because its trial ended between two, has none.

    Args:
        spec: The job, which says the scales that rank.
        rows: Of one protocol, at any scales, in the order to keep.
    """
    scales = set(spec.evaluation.ranking_scales(spec.sampler))
    points: dict[tuple[str, str, float], dict[float | None, EvaluationView]] = {}
    for row in rows:
        if row.guidance_scale in scales:
            points.setdefault((row.unit_id, row.checkpoint_id, row.kimg), {})[row.guidance_scale] = row
    return [min(curve.values(), key=_fid) for curve in points.values() if curve.keys() == scales]


@dataclass(frozen=True)
class _Ranked:
    """What units of one kind in one round are ranked by, in order, and the protocols of that: one for each scale."""

    rows: list[EvaluationView]
    fingerprints: frozenset[str]


def _of_kind(job: JobView, kind: UnitKind, round_index: int) -> _Ranked:
    # In order of the grid, then of training: equal FIDs are decided the same way however the workers raced.
    positions = {unit.id: unit.position for unit in job.units_of(kind, round_index)}
    scales = job.spec.evaluation.ranking_scales(job.spec.sampler)
    rows = [row for row in job.evaluations if row.unit_id in positions and row.guidance_scale in scales]
    rows.sort(key=lambda row: (positions[row.unit_id], row.kimg))
    by_scale: dict[float | None, str] = {}
    for row in rows:
        first = by_scale.setdefault(row.guidance_scale, row.fingerprint)
        if first != row.fingerprint:
            differs = difference(job, [first], [row.fingerprint])
            raise InconsistentRowsError(f"round {round_index} was measured under more than one protocol{differs}")
    return _Ranked(ranking_rows(job.spec, rows), frozenset(by_scale.values()))


def _fid(row: EvaluationView) -> float:
    if row.fid is None:
        raise InconsistentRowsError(f"checkpoint {row.checkpoint_id} was evaluated without a FID")
    return row.fid

"""From rows to what clients see of baselines."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddo_engine.spec import DiscriminatorGuidanceBaseline, EvaluationSettings, JobSpec, SampledBaseline, TrainedBaseline
from service.api.baselines import schemas
from service.api.baselines.repository import BaselineRows
from service.api.baselines.schemas import BaselineEvaluation, BaselineStatus, BaselineUnit, ProtocolDifference
from service.api.measured import measured
from service.api.rounds.schemas import TrialError, TrialWarning
from service.models import Evaluation, WorkUnit
from service.protocol_parts import differing_parts
from service.selection import confirm_protocol
from service.statuses import JOB_ENDED, JobStatus, UnitKind, UnitStatus


@dataclass(frozen=True)
class _Found:
    """An evaluation as it is stored and as it is shown."""

    row: Evaluation
    shown: BaselineEvaluation

    def is_under(self, settings: EvaluationSettings) -> bool:
        return _samples_of(self.row) == (settings.num_samples, settings.seed)


def baselines(rows: BaselineRows, spec: JobSpec, job_status: JobStatus) -> list[schemas.Baseline]:
    """Return a job's baselines in their order, those too for which nothing was done yet."""
    return [_baseline(rows, spec, job_status, index) for index in range(len(spec.baselines))]


def _baseline(rows: BaselineRows, spec: JobSpec, job_status: JobStatus, index: int) -> schemas.Baseline:
    settings = spec.baselines[index]
    units = [unit for unit in rows.units if unit.baseline_index == index]
    found = list(_evaluations(rows, settings, spec, units))
    of_search = _ranking(found, settings, spec, spec.evaluation)
    best = min(of_search, key=lambda each: (each.shown.fid, each.shown.kimg), default=None)
    failed = [unit for unit in units if unit.status == UnitStatus.FAILED]
    return schemas.Baseline(
        baseline_index=index,
        kind=settings.kind,
        settings=settings,
        status=_status(units, job_status),
        error=_error(failed[0]) if failed else None,
        warnings=[TrialWarning.model_validate(warning) for unit in units for warning in unit.warnings],
        best=None if best is None else best.shown,
        confirmed=None if best is None else _confirmed(best, found, settings, spec),
        checkpoint_id=None if best is None else best.row.checkpoint_id,
        discriminator_id=next((rows.discriminators[unit.id] for unit in units if unit.id in rows.discriminators), None),
        evaluations=[each.shown for each in found],
        units=[_unit(unit) for unit in units],
    )


def _evaluations(
    rows: BaselineRows, settings: TrainedBaseline | SampledBaseline, spec: JobSpec, units: Sequence[WorkUnit]
) -> Iterator[_Found]:
    by_id = {unit.id: unit for unit in units}
    of_base = {(*_samples_of(row), _guidance_scale(row)): row.protocol for row in rows.of_base}
    own = [row for row in rows.evaluations if row.unit_id in by_id]
    trained = {row.checkpoint_id: row.kimg for row in own if by_id[row.unit_id].kind == UnitKind.BASELINE_TRIAL}
    for row in own:
        # a trained one is compared with the base at the same scale, samples of the base with those of round 0
        compared = _guidance_scale(row) if isinstance(settings, TrainedBaseline) else spec.sampler.guidance_scale
        protocol = of_base.get((*_samples_of(row), compared))
        kimg = row.kimg if row.checkpoint_id is None else trained.get(row.checkpoint_id, row.kimg)
        shown = BaselineEvaluation(
            **measured(row, kimg=kimg).model_dump(),
            scale=_scale(settings, by_id[row.unit_id].position),
            differs=None if protocol is None else list(_differences(protocol, row.protocol)),
        )
        yield _Found(row, shown)


def _samples_of(row: Evaluation) -> tuple[Any, Any]:
    return row.protocol.get("num_samples"), row.protocol.get("seed")


def _guidance_scale(row: Evaluation) -> float:
    return float(row.protocol["sampler"]["guidance_scale"])


def _scale(settings: TrainedBaseline | SampledBaseline, position: int) -> float | None:
    if isinstance(settings, TrainedBaseline):
        return None
    return (settings.weights if isinstance(settings, DiscriminatorGuidanceBaseline) else settings.scales)[position]


def _differences(base: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[ProtocolDifference]:
    for field, (mine, theirs) in differing_parts(base, other).items():
        yield ProtocolDifference(field=field, base=mine, baseline=theirs)


def _confirmed(
    best: _Found, found: Sequence[_Found], settings: TrainedBaseline | SampledBaseline, spec: JobSpec
) -> BaselineEvaluation | None:
    if spec.confirm is None:
        return None
    measured_again = _ranking(found, settings, spec, confirm_protocol(spec))
    same = (
        each.shown
        for each in measured_again
        if (each.row.checkpoint_id, each.shown.scale) == (best.row.checkpoint_id, best.shown.scale)
    )
    return next(same, None)


def _ranking(
    found: Sequence[_Found], settings: TrainedBaseline | SampledBaseline, spec: JobSpec, protocol: EvaluationSettings
) -> list[_Found]:
    """Return by which evaluation of a protocol each checkpoint counts: trained ones as those of the rounds do."""
    under = [each for each in found if each.is_under(protocol) and each.row.checkpoint_id is not None]
    if not isinstance(settings, TrainedBaseline):
        return under
    scales = set(spec.evaluation.ranking_scales(spec.sampler))
    points: dict[float, dict[float, _Found]] = {}
    for each in under:
        if each.shown.guidance_scale in scales:
            points.setdefault(each.shown.kimg, {})[each.shown.guidance_scale] = each
    return [min(curve.values(), key=lambda each: each.shown.fid) for curve in points.values() if curve.keys() == scales]


def _status(units: Sequence[WorkUnit], job_status: JobStatus) -> BaselineStatus:
    """Return what the units have come to: open while one is, then the worst of their ends."""
    statuses = {UnitStatus(unit.status) for unit in units}
    for status in (
        UnitStatus.RUNNING,
        UnitStatus.QUEUED,
        UnitStatus.FAILED,
        UnitStatus.CANCELLED,
        UnitStatus.SUCCEEDED,
    ):
        if status in statuses:
            return BaselineStatus(status)
    return BaselineStatus.CANCELLED if job_status in JOB_ENDED else BaselineStatus.PENDING


def _unit(unit: WorkUnit) -> BaselineUnit:
    return BaselineUnit(
        unit_id=unit.id,
        kind=UnitKind(unit.kind),
        position=unit.position,
        status=UnitStatus(unit.status),
        attempt=unit.attempt,
        progress=unit.progress,
        error=_error(unit),
    )


def _error(unit: WorkUnit) -> TrialError | None:
    if not unit.error:
        return None
    return TrialError(code=unit.error.get("code"), message=unit.error.get("message"))

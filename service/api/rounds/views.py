"""From rows to what clients see of rounds."""

from collections.abc import Iterable
from typing import Any

from ddo_engine.spec import EvaluationSettings, JobSpec
from service.api.measured import measured
from service.api.rounds import schemas
from service.api.rounds.repository import Chain
from service.models import Evaluation, Round, Trial, WorkUnit
from service.selection import deciding_protocol
from service.statuses import RoundStatus, UnitStatus


def rounds(chain: Chain, spec: JobSpec) -> list[schemas.Round]:
    """Return the rounds in order."""
    return [_round(chain, row, spec) for row in chain.rounds]


def cell_of(trial: Trial | None) -> dict[str, Any]:
    """Return the fields that say which cell of the grid a checkpoint is of; null where no trial trained it."""
    if trial is None:
        return {"trial_index": None, "alpha": None, "beta": None}
    return {"trial_index": trial.trial_index, "alpha": trial.alpha, "beta": trial.trained_beta}


def _round(chain: Chain, row: Round, spec: JobSpec) -> schemas.Round:
    winner = _winner(chain, row, spec)
    reference = chain.ranked.get(row.reference_checkpoint_id or "")
    return schemas.Round(
        round_index=row.round_index,
        status=RoundStatus(row.status),
        reference_checkpoint_id=row.reference_checkpoint_id,
        reference_fid=None if reference is None else reference.metrics["fid"],
        best_fid=winner.measured.fid if winner is not None and winner.measured is not None else None,
        winner=winner,
        settings=_settings(spec, row.round_index),
        trials=[_trial(chain, trial, unit, spec) for trial, unit in chain.trials[row.id]],
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _settings(spec: JobSpec, round_index: int) -> schemas.RoundSettings | None:
    if round_index == 0:
        return None
    told = spec.settings_of(round_index)
    return schemas.RoundSettings(training=told.training, grid=told.grid)


def _winner(chain: Chain, row: Round, spec: JobSpec) -> schemas.Winner | None:
    if row.winner_checkpoint_id is None:
        return None
    checkpoint = chain.winners[row.winner_checkpoint_id]
    trial = next((trial for trial, _ in chain.trials[row.id] if trial.unit_id == checkpoint.unit_id), None)
    return schemas.Winner(
        checkpoint_id=checkpoint.id,
        **cell_of(trial),
        kimg=checkpoint.kimg,
        measured=_measured(chain.ranked.get(checkpoint.id), kimg=checkpoint.kimg),
        curve=_curve(chain, checkpoint.id, spec, deciding_protocol(spec), kimg=checkpoint.kimg),
    )


def _curve(
    chain: Chain, checkpoint_id: str | None, spec: JobSpec, protocol: EvaluationSettings, *, kimg: float
) -> schemas.GuidanceCurve | None:
    if checkpoint_id is None or not spec.evaluation.guidance_scales:
        return None
    return guidance_curve(chain.evaluations.get(checkpoint_id, ()), protocol, kimg=kimg)


def guidance_curve(rows: Iterable[Evaluation], protocol: EvaluationSettings, *, kimg: float) -> schemas.GuidanceCurve:
    """Return what was measured of a checkpoint under a protocol, over the guidance scale.

    Args:
        rows: Evaluations of the checkpoint, in order.
        protocol: Which of them count: those on its samples.
        kimg: Of the checkpoint.
    """
    by_scale: dict[float, schemas.Measured] = {}
    for row in rows:
        if (row.protocol.get("num_samples"), row.protocol.get("seed")) == (protocol.num_samples, protocol.seed):
            shown = measured(row, kimg=kimg)
            by_scale.setdefault(shown.guidance_scale, shown)
    points = [by_scale[scale] for scale in sorted(by_scale)]
    return schemas.GuidanceCurve(points=points, best=min(points, key=lambda point: point.fid, default=None))


def _trial(chain: Chain, trial: Trial, unit: WorkUnit, spec: JobSpec) -> schemas.Trial:
    best = chain.best.get(unit.id)
    ranked = chain.ranked.get(best.checkpoint_id or "") if best is not None else None
    is_confirmed = ranked is not None and ranked.unit_id != unit.id
    return schemas.Trial(
        trial_index=trial.trial_index,
        alpha=trial.alpha,
        beta="auto" if trial.beta is None else trial.beta,
        found_beta=trial.found_beta,
        warnings=[schemas.TrialWarning.model_validate(warning) for warning in unit.warnings],
        status=UnitStatus(unit.status),
        unit_id=unit.id,
        attempt=unit.attempt,
        best_fid=None if best is None else best.metrics["fid"],
        best_kimg=None if best is None else best.kimg,
        best=_measured(best),
        confirmed=_measured(ranked, kimg=best.kimg) if best is not None and is_confirmed else None,
        curve=None
        if best is None
        else _curve(
            chain,
            best.checkpoint_id,
            spec,
            deciding_protocol(spec) if is_confirmed else spec.evaluation,
            kimg=best.kimg,
        ),
        progress=unit.progress,
        error=schemas.TrialError(code=unit.error.get("code"), message=unit.error.get("message"))
        if unit.error
        else None,
    )


def _measured(row: Evaluation | None, *, kimg: float | None = None) -> schemas.Measured | None:
    return None if row is None else measured(row, kimg=kimg)

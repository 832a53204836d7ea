"""What happens next to a job: a pure function from its rows to actions.

    validate ──> round 0: baseline ─────────────────────────┐
             └─> round 1: reference shards ─> trials ─> (confirm) ─> winner ─> round 2: reference shards ─> …

A job whose fakes are drawn online has no reference shards. Beside the rounds run the baselines (``service.baselines``),
for which nothing waits but the end of the job.

Round 0 measures the base while round 1 already runs; no later round completes before it. ``plan`` is called until it
asks for nothing more, and asks for a thing only where its row is missing, so that calling it again is harmless.

A round starts from the best checkpoint so far. That is the winner of the round before, unless that round brought
nothing: then it is the same reference again, with other seeds, and other settings where ``round_overrides`` say so.
"""

from collections.abc import Sequence

from ddo_engine.spec import EvaluateSpec, FileRef, GenerateSpec, OnlineReferenceSet, TrainSpec, ValidateSpec
from service.baselines import baselines_have_ended, plan_baselines
from service.failures import job_error, reason_for
from service.job_view import (
    Action,
    CancelUnit,
    CreateRound,
    CreateUnit,
    JobInputs,
    JobView,
    MoveJob,
    MoveRound,
    RoundView,
    UnitView,
)
from service.seeds import reference_set_seed, trial_seed
from service.selection import InconsistentRowsError, confirm_protocol, deciding_fids, finalists, judging_protocols
from service.statuses import JOB_ENDED, UNIT_ENDED, JobStatus, RoundStatus, TerminationReason, UnitKind, UnitStatus
from service.stopping import in_words, noise_protocols, standing

__all__ = ["JobInputs", "plan"]

_OPEN_ROUND = frozenset({RoundStatus.PENDING, RoundStatus.GENERATING, RoundStatus.TRAINING, RoundStatus.SELECTING})
# One failure of these ends the job; a failed trial is one cell of the grid less.
_INDISPENSABLE = (UnitKind.VALIDATE, UnitKind.BASELINE, UnitKind.REFERENCE, UnitKind.CONFIRM)


def plan(job: JobView) -> list[Action]:
    """Return what to do next for a job, in order; empty once everything waits for a unit to end.

    Source: the rounds are those of arXiv:2503.01103, section 3.3.
    """
    if job.status in JOB_ENDED:
        return _cancel_units(job)
    if job.status is JobStatus.CANCELLING:
        return _cancel(job)
    if job.status is JobStatus.PAUSED:
        return []
    failed = next((u for u in job.units if u.kind in _INDISPENSABLE and u.status is UnitStatus.FAILED), None)
    return _go_on(job) if failed is None else _fail(job, failed)


def _go_on(job: JobView) -> list[Action]:
    if job.status is JobStatus.VALIDATING:
        return _validate(job)
    if not job.rounds:
        return [CreateRound(0)]
    try:
        actions = _baseline(job) + _round(job)
    except InconsistentRowsError as error:
        return _fail_round(job, job.rounds[-1].index, TerminationReason.ENGINE_ERROR, {"message": str(error)})
    has_ended = any(isinstance(action, MoveJob) for action in actions)
    return actions if has_ended else [*actions, *plan_baselines(job)]


def _validate(job: JobView) -> list[Action]:
    units = job.units_of(UnitKind.VALIDATE, None)
    if not units:
        spec = ValidateSpec(
            checkpoint=job.parent or FileRef(uri=job.spec.base_checkpoint),
            autoencoder=_outside(job.spec.autoencoder),
            guide=_outside(job.spec.guide),
            dataset=FileRef(uri=job.spec.dataset.uri),
            feature_network=FileRef(uri=job.spec.feature_network),
            reference_statistics=_outside(job.spec.reference_statistics),
            sampler=job.spec.sampler,
            training=job.spec.training,
            later_training=tuple(
                job.spec.settings_of(override.from_round).training for override in job.spec.round_overrides
            ),
            online_reference_set=_online(job),
            evaluation=job.spec.evaluation,
            baselines=job.spec.baselines,
            baseline_guide=_outside(job.spec.baseline_guide),
            dataset_reading=job.spec.dataset.reading,
            grey_levels=job.spec.dataset.grey_levels,
        )
        return [CreateUnit(UnitKind.VALIDATE, None, 0, spec)]
    return [MoveJob(JobStatus.QUEUED)] if units[0].status is UnitStatus.SUCCEEDED else []


def _baseline(job: JobView) -> list[Action]:
    """Round 0: the base under every protocol that will judge the rounds; it starts round 1 beside itself."""
    first = job.rounds[0]
    actions: list[Action] = []
    if len(job.rounds) == 1:
        actions.append(CreateRound(1, job.base.id))
    units = job.units_of(UnitKind.BASELINE, 0)
    if not units:
        protocols = [*judging_protocols(job.spec), *noise_protocols(job.spec)]
        spec = EvaluateSpec(
            checkpoint=job.base.file,
            autoencoder=job.checked_inputs.autoencoder,
            guide=job.checked_inputs.guide,
            dataset=job.checked_inputs.dataset,
            feature_network=job.checked_inputs.feature_network,
            reference_statistics=job.checked_inputs.reference_statistics,
            sampler=job.spec.sampler,
            evaluations=tuple(protocols),
            dataset_reading=job.spec.dataset.reading,
            grey_levels=job.spec.dataset.grey_levels,
        )
        actions += [CreateUnit(UnitKind.BASELINE, 0, 0, spec), MoveRound(0, RoundStatus.SELECTING)]
    elif units[0].status is UnitStatus.SUCCEEDED and first.status is RoundStatus.SELECTING:
        actions.append(MoveRound(0, RoundStatus.COMPLETED, winner_id=job.base.id))
    return actions


def _round(job: JobView) -> list[Action]:
    """The newest round after round 0, one step on."""
    current = job.rounds[-1]
    if current.index == 0:
        return []
    steps = {
        RoundStatus.PENDING: _generate,
        RoundStatus.GENERATING: _train,
        RoundStatus.TRAINING: _after_training,
        RoundStatus.SELECTING: _select,
        RoundStatus.COMPLETED: _after_round,
    }
    step = steps.get(current.status)
    return step(job, current) if step is not None else []


def _generate(job: JobView, current: RoundView) -> list[Action]:
    wanted = job.spec.reference_set
    if wanted.kind == "online":
        return [MoveRound(current.index, RoundStatus.GENERATING)]
    bounds = [shard * wanted.num_samples // wanted.shards for shard in range(wanted.shards + 1)]
    first_seed = reference_set_seed(job.spec, current.index)
    units: list[Action] = [
        CreateUnit(
            UnitKind.REFERENCE,
            current.index,
            shard,
            GenerateSpec(
                checkpoint=_reference(job, current),
                autoencoder=job.checked_inputs.autoencoder,
                dataset=job.checked_inputs.dataset,
                sampler=job.spec.sampler.for_reference_set(),
                first_seed=first_seed + bounds[shard],
                num_samples=bounds[shard + 1] - bounds[shard],
                dataset_reading=job.spec.dataset.reading,
                grey_levels=job.spec.dataset.grey_levels,
            ),
        )
        for shard in range(wanted.shards)
    ]
    return [*units, MoveRound(current.index, RoundStatus.GENERATING)]


def _train(job: JobView, current: RoundView) -> list[Action]:
    shards = job.units_of(UnitKind.REFERENCE, current.index)
    if not _all(shards, UnitStatus.SUCCEEDED):
        return []
    settings = job.spec.settings_of(current.index)
    artifacts = tuple(shard.artifact for shard in shards if shard.artifact is not None)
    if len(artifacts) != len(shards):
        raise InconsistentRowsError("a unit that generates reference samples succeeded without storing them")
    trials: list[Action] = [
        CreateUnit(
            UnitKind.TRIAL,
            current.index,
            position,
            TrainSpec(
                checkpoint=_reference(job, current),
                autoencoder=job.checked_inputs.autoencoder,
                guide=job.checked_inputs.guide,
                dataset=job.checked_inputs.dataset,
                reference_set=artifacts,
                online_reference_set=_online(job),
                feature_network=job.checked_inputs.feature_network,
                reference_statistics=job.checked_inputs.reference_statistics,
                objective=cell,
                training=settings.training,
                sampler=job.spec.sampler,
                evaluation=job.spec.evaluation,
                dataset_reading=job.spec.dataset.reading,
                grey_levels=job.spec.dataset.grey_levels,
                seed=trial_seed(job.spec, current.index, position),
            ),
            cell,
        )
        for position, cell in enumerate(settings.grid.cells)
    ]
    return [*trials, MoveRound(current.index, RoundStatus.TRAINING)]


def _after_training(job: JobView, current: RoundView) -> list[Action]:
    trials = job.units_of(UnitKind.TRIAL, current.index)
    if not all(trial.status in UNIT_ENDED for trial in trials):
        return []
    best = finalists(job, current.index)
    if not best:
        failed = next((trial for trial in trials if trial.status is UnitStatus.FAILED), None)
        if failed is not None:
            return _fail(job, failed)
        raise InconsistentRowsError("no trial left a checkpoint with a FID")
    confirms: list[Action] = []
    if job.spec.confirm is not None:
        confirms = [
            CreateUnit(
                UnitKind.CONFIRM,
                current.index,
                position,
                EvaluateSpec(
                    checkpoint=job.checkpoint(checkpoint_id).file,
                    autoencoder=job.checked_inputs.autoencoder,
                    guide=job.checked_inputs.guide,
                    dataset=job.checked_inputs.dataset,
                    feature_network=job.checked_inputs.feature_network,
                    reference_statistics=job.checked_inputs.reference_statistics,
                    sampler=job.spec.sampler,
                    evaluations=(confirm_protocol(job.spec),),
                    dataset_reading=job.spec.dataset.reading,
                    grey_levels=job.spec.dataset.grey_levels,
                ),
            )
            for position, checkpoint_id in enumerate(best[: job.spec.confirm.finalists])
        ]
    return [*confirms, MoveRound(current.index, RoundStatus.SELECTING)]


def _select(job: JobView, current: RoundView) -> list[Action]:
    if job.rounds[0].status is not RoundStatus.COMPLETED:
        return []
    if not _all(job.units_of(UnitKind.CONFIRM, current.index), UnitStatus.SUCCEEDED):
        return []
    candidates = deciding_fids(job, current).candidates
    winner_id = min(candidates, key=candidates.__getitem__)
    return [MoveRound(current.index, RoundStatus.COMPLETED, winner_id=winner_id)]


def _after_round(job: JobView, current: RoundView) -> list[Action]:
    now = standing(job)
    is_over = now.rounds_without_improvement >= job.spec.stop.patience_rounds
    if not is_over and current.index < job.spec.rounds:
        return [CreateRound(current.index + 1, now.best_id)]
    if not baselines_have_ended(job):
        return []
    reason = TerminationReason.NO_IMPROVEMENT if is_over else TerminationReason.COMPLETED
    best_id = now.best_id if now.best_id != job.base.id else None
    return [MoveJob(JobStatus.SUCCEEDED, reason, in_words(now, job.spec), best_checkpoint_id=best_id)]


def _fail(job: JobView, unit: UnitView) -> list[Action]:
    error = dict(unit.error or {})
    return _fail_round(job, unit.round_index, reason_for(error.get("code")), error, where=_in_words(unit))


def _fail_round(
    job: JobView,
    index: int | None,
    reason: TerminationReason,
    error: dict[str, object],
    *,
    where: str = "choosing the next step",
) -> list[Action]:
    rounds: list[Action] = [
        MoveRound(item.index, RoundStatus.FAILED if item.index == index else RoundStatus.CANCELLED)
        for item in job.rounds
        if item.status in _OPEN_ROUND
    ]
    failure = job_error(reason, error, where=where)
    ended = MoveJob(JobStatus.FAILED, reason, error=failure, best_checkpoint_id=_best_so_far(job))
    return [*_cancel_units(job), *rounds, ended]


def _cancel(job: JobView) -> list[Action]:
    actions = _cancel_units(job)
    if any(unit.status is UnitStatus.RUNNING for unit in job.units):
        return actions
    actions += [MoveRound(item.index, RoundStatus.CANCELLED) for item in job.rounds if item.status in _OPEN_ROUND]
    ended = MoveJob(JobStatus.CANCELLED, TerminationReason.CANCELLED_BY_USER, best_checkpoint_id=_best_so_far(job))
    return [*actions, ended]


def _cancel_units(job: JobView) -> list[Action]:
    return [
        CancelUnit(unit.id)
        for unit in job.units
        if unit.status is UnitStatus.QUEUED or (unit.status is UnitStatus.RUNNING and not unit.cancel_requested)
    ]


def _best_so_far(job: JobView) -> str | None:
    """What the completed rounds found: the newest open round's reference, unless that is the base."""
    references = [item.reference_id for item in job.rounds if item.reference_id is not None]
    return references[-1] if references and references[-1] != job.base.id else None


def _online(job: JobView) -> OnlineReferenceSet | None:
    """Return how fakes are drawn beside each batch; None for a stored reference set."""
    wanted = job.spec.reference_set
    return wanted if wanted.kind == "online" else None


def _outside(uri: str | None) -> FileRef | None:
    return None if uri is None else FileRef(uri=uri)


def _reference(job: JobView, current: RoundView) -> FileRef:
    assert current.reference_id is not None
    return job.checkpoint(current.reference_id).file


def _all(units: Sequence[UnitView], status: UnitStatus) -> bool:
    return all(unit.status is status for unit in units)


def _in_words(unit: UnitView) -> str:
    names = {
        UnitKind.VALIDATE: "checking the inputs",
        UnitKind.BASELINE: "evaluating the base checkpoint",
        UnitKind.REFERENCE: f"round {unit.round_index}, generating reference samples",
        UnitKind.TRIAL: f"round {unit.round_index}, trial {unit.position}",
        UnitKind.CONFIRM: f"round {unit.round_index}, confirming finalist {unit.position}",
    }
    return names[unit.kind]

"""What happens next to a job's baselines: pure, as the planner is.

    mle, cca                 trial ─> (confirm)
    guidance, autoguidance   an evaluation per scale
    discriminator_guidance   (round 1's reference set) ─> discriminator ─> an evaluation per weight

All start from the base and belong to round 0. One that fails is shown as failed, and changes nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import assert_never

from ddo_engine.spec import (
    AutoguidanceBaseline,
    CCABaseline,
    DiscriminatorGuidanceBaseline,
    DiscriminatorSpec,
    EvaluateSpec,
    EvaluationSettings,
    FileRef,
    GuidanceBaseline,
    MLEBaseline,
    SamplerSettings,
    TrainedBaseline,
    TrainSpec,
    UnitSpec,
)
from service.job_view import CreateUnit, JobView, UnitView
from service.seeds import baseline_seed
from service.selection import confirm_protocol, judging_protocols, ranking_rows
from service.statuses import UNIT_ENDED, UnitKind, UnitStatus


def plan_baselines(job: JobView) -> list[CreateUnit]:
    """Return the units that baselines lack. Only once round 0 exists."""
    return [action for index in range(len(job.spec.baselines)) for action in _next_units(job, index)]


def baselines_have_ended(job: JobView) -> bool:
    """Tell whether nothing of the baselines is under way or due any more."""
    units = (unit for unit in job.units if unit.baseline_index is not None)
    return all(unit.status in UNIT_ENDED for unit in units) and not plan_baselines(job)


def _next_units(job: JobView, index: int) -> list[CreateUnit]:
    baseline, inputs = job.spec.baselines[index], job.checked_inputs
    match baseline:
        case MLEBaseline() | CCABaseline():
            return _train(job, index, baseline)
        case GuidanceBaseline():
            return _evaluate_base(job, index, baseline.samplers(job.spec.sampler), guide=None)
        case AutoguidanceBaseline():
            guide = inputs.baseline_guide or inputs.guide
            return _evaluate_base(job, index, baseline.samplers(job.spec.sampler), guide=guide)
        case DiscriminatorGuidanceBaseline():
            trained = job.units_of_baseline(UnitKind.BASELINE_DISCRIMINATOR, index)
            if not trained:
                return _train_discriminator(job, index, baseline)
            if trained[0].status is not UnitStatus.SUCCEEDED or trained[0].artifact is None:
                return []
            samplers = baseline.samplers(job.spec.sampler)
            return _evaluate_base(job, index, samplers, guide=inputs.guide, discriminator=trained[0].artifact)
        case _:
            assert_never(baseline)


def _train(job: JobView, index: int, baseline: TrainedBaseline) -> list[CreateUnit]:
    inputs, trials = job.checked_inputs, job.units_of_baseline(UnitKind.BASELINE_TRIAL, index)
    if trials:
        return _confirm(job, index, trials[0])
    spec = TrainSpec(
        checkpoint=job.base.file,
        autoencoder=inputs.autoencoder,
        guide=inputs.guide,
        dataset=inputs.dataset,
        feature_network=inputs.feature_network,
        reference_statistics=inputs.reference_statistics,
        objective=baseline.objective,
        training=job.spec.baseline_training(baseline),
        sampler=job.spec.sampler,
        evaluation=job.spec.evaluation,
        dataset_reading=job.spec.dataset.reading,
        grey_levels=job.spec.dataset.grey_levels,
        seed=baseline_seed(job.spec, index),
    )
    return _units(UnitKind.BASELINE_TRIAL, index, [spec])


def _confirm(job: JobView, index: int, trial: UnitView) -> list[CreateUnit]:
    """Measure the best checkpoint of a trial as the finalists of the rounds are, where they are."""
    if job.spec.confirm is None or trial.status is not UnitStatus.SUCCEEDED:
        return []
    rows = ranking_rows(job.spec, [row for row in job.evaluations if row.unit_id == trial.id])
    fids = [(row.fid, row.kimg, row.checkpoint_id) for row in rows if row.fid is not None]
    if not fids or job.units_of_baseline(UnitKind.BASELINE_EVALUATION, index):
        return []
    _, _, checkpoint_id = min(fids)
    protocols = [confirm_protocol(job.spec)]
    spec = _evaluation(
        job, job.checkpoint(checkpoint_id).file, job.spec.sampler, protocols, guide=job.checked_inputs.guide
    )
    return _units(UnitKind.BASELINE_EVALUATION, index, [spec])


def _train_discriminator(job: JobView, index: int, baseline: DiscriminatorGuidanceBaseline) -> list[CreateUnit]:
    """Once the fakes of round 1 are there: they are samples of the base, which is what it corrects."""
    shards = job.units_of(UnitKind.REFERENCE, 1)
    artifacts = tuple(shard.artifact for shard in shards if shard.artifact is not None)
    if not shards or len(artifacts) != len(shards) or any(each.status is not UnitStatus.SUCCEEDED for each in shards):
        return []
    spec = DiscriminatorSpec(
        checkpoint=job.base.file,
        autoencoder=job.checked_inputs.autoencoder,
        dataset=job.checked_inputs.dataset,
        reference_set=artifacts,
        network=baseline.network,
        training=baseline.training,
        dataset_reading=job.spec.dataset.reading,
        grey_levels=job.spec.dataset.grey_levels,
        seed=baseline_seed(job.spec, index),
    )
    return _units(UnitKind.BASELINE_DISCRIMINATOR, index, [spec])


def _evaluate_base(
    job: JobView,
    index: int,
    samplers: Iterable[SamplerSettings],
    *,
    guide: FileRef | None,
    discriminator: FileRef | None = None,
) -> list[CreateUnit]:
    if job.units_of_baseline(UnitKind.BASELINE_EVALUATION, index):
        return []
    # a sampler of its own has one scale: its curve would be that of the baseline's other scales
    protocols = [protocol.at_one_scale() for protocol in judging_protocols(job.spec)]
    specs = [
        _evaluation(job, job.base.file, sampler, protocols, guide=guide, discriminator=discriminator)
        for sampler in samplers
    ]
    return _units(UnitKind.BASELINE_EVALUATION, index, specs)


def _evaluation(
    job: JobView,
    checkpoint: FileRef,
    sampler: SamplerSettings,
    protocols: Sequence[EvaluationSettings],
    *,
    guide: FileRef | None,
    discriminator: FileRef | None = None,
) -> EvaluateSpec:
    inputs = job.checked_inputs
    return EvaluateSpec(
        checkpoint=checkpoint,
        autoencoder=inputs.autoencoder,
        guide=guide,
        discriminator=discriminator,
        dataset=inputs.dataset,
        feature_network=inputs.feature_network,
        reference_statistics=inputs.reference_statistics,
        sampler=sampler,
        evaluations=tuple(protocols),
        dataset_reading=job.spec.dataset.reading,
        grey_levels=job.spec.dataset.grey_levels,
    )


def _units(kind: UnitKind, index: int, specs: Sequence[UnitSpec]) -> list[CreateUnit]:
    return [CreateUnit(kind, 0, position, spec, baseline_index=index) for position, spec in enumerate(specs)]

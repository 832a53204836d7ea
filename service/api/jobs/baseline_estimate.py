"""What the baselines of a job will cost, from its spec alone, in the same currency as its rounds.

A discriminator counts by its own forward passes, three of them an image, real ones and fakes, though it is smaller than
the model; where it corrects samples, it counts as ``sampler.nfe`` does.
"""

from dataclasses import dataclass

from ddo_engine.spec import DiscriminatorGuidanceBaseline, JobSpec, MLEBaseline, SampledBaseline, TrainedBaseline
from service.api.jobs.step_costs import PASSES_OF_A_DDO_STEP, PASSES_OF_AN_MLE_STEP, num_evaluations
from service.selection import confirm_protocol, judging_protocols
from service.statuses import UnitKind


@dataclass(frozen=True)
class BaselineEstimate:
    """One baseline.

    Attributes:
        kind: As in the job.
        units: How many of each kind of unit.
        unit_costs: Network evaluations of one unit of each kind; of evaluations their mean.
        trained_images: Real images that its training sees.
        generated_images: Sampled images.
        checkpoints: Kept at most.
    """

    kind: str
    units: dict[str, int]
    unit_costs: dict[str, float]
    trained_images: int
    generated_images: int
    checkpoints: int

    @property
    def network_evaluations(self) -> int:
        """Of all of its units."""
        return round(sum(count * self.unit_costs[kind] for kind, count in self.units.items()))


def estimate_baselines(spec: JobSpec) -> tuple[BaselineEstimate, ...]:
    """Return what each of a job's baselines costs."""
    return tuple(
        _of_sampled(spec, baseline) if isinstance(baseline, SampledBaseline) else _of_trained(spec, baseline)
        for baseline in spec.baselines
    )


def _of_trained(spec: JobSpec, baseline: TrainedBaseline) -> BaselineEstimate:
    training = spec.baseline_training(baseline)
    images = training.num_steps * training.batch_size
    passes = PASSES_OF_AN_MLE_STEP if isinstance(baseline, MLEBaseline) else PASSES_OF_A_DDO_STEP
    evaluations = num_evaluations(training)
    confirm = confirm_protocol(spec) if spec.confirm else None
    units = {str(UnitKind.BASELINE_TRIAL): 1}
    if confirm:
        units[str(UnitKind.BASELINE_EVALUATION)] = 1
    return BaselineEstimate(
        kind=baseline.kind,
        units=units,
        unit_costs={
            UnitKind.BASELINE_TRIAL: images * passes + evaluations * spec.evaluation.network_evaluations(spec.sampler),
            UnitKind.BASELINE_EVALUATION: confirm.network_evaluations(spec.sampler) if confirm else 0,
        },
        trained_images=images,
        generated_images=evaluations * spec.evaluation.generated_images()
        + (confirm.generated_images() if confirm else 0),
        checkpoints=evaluations,
    )


def _of_sampled(spec: JobSpec, baseline: SampledBaseline) -> BaselineEstimate:
    samplers = baseline.samplers(spec.sampler)
    samples = sum(protocol.num_samples for protocol in judging_protocols(spec))
    units = {str(UnitKind.BASELINE_EVALUATION): len(samplers)}
    costs: dict[str, float] = {
        UnitKind.BASELINE_EVALUATION: samples * sum(sampler.nfe for sampler in samplers) / len(samplers)
    }
    trained = 0
    if isinstance(baseline, DiscriminatorGuidanceBaseline):
        trained = baseline.training.num_steps * baseline.training.batch_size
        units[str(UnitKind.BASELINE_DISCRIMINATOR)] = 1
        costs[UnitKind.BASELINE_DISCRIMINATOR] = 2 * trained * PASSES_OF_AN_MLE_STEP
    return BaselineEstimate(baseline.kind, units, costs, trained, len(samplers) * samples, 0)

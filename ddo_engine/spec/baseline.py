"""What a job may compare DDO with: baselines under its own protocol, never ranked among its trials."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from ddo_engine.spec.base import PositiveFloat, Settings, Uri
from ddo_engine.spec.discriminator import DiscriminatorNetwork, DiscriminatorTraining
from ddo_engine.spec.evaluation import MOST_SCALES, EvaluationSettings, GuidanceScale
from ddo_engine.spec.sampler import AutoregressiveSettings, SamplerSettings
from ddo_engine.spec.settings import CCAObjective, MLEObjective

MOST_BASELINES = 16


class _TrainedBaseline(Settings):
    kimg: PositiveFloat | None = Field(
        default=None,
        le=1e7,
        description="Length in thousands of real images. None: as many images as one trial of every round sees, real "
        "and fake: for 'mle' twice their kimg, for 'cca', which doubles its batches too, once.",
    )


class MLEBaseline(_TrainedBaseline):
    """Continued maximum likelihood: the family's own pretraining loss, from the base, with round 1's settings."""

    kind: Literal["mle"] = "mle"

    @property
    def objective(self) -> MLEObjective:
        """What its trial minimises."""
        return MLEObjective()


class CCABaseline(_TrainedBaseline):
    """Condition contrastive alignment (arXiv:2410.09347) of a class-conditional VAR, from the base."""

    kind: Literal["cca"] = "cca"
    alpha: float = Field(ge=0, le=1e6, description="That paper's lambda.")
    beta: float = Field(gt=0, le=1e6)

    @property
    def objective(self) -> CCAObjective:
        """What its trial minimises."""
        return CCAObjective(alpha=self.alpha, beta=self.beta)


Scales = Annotated[tuple[GuidanceScale, ...], Field(min_length=1, max_length=MOST_SCALES)]


class _SampledBaseline(Settings):
    @field_validator("scales", "weights", check_fields=False)
    @classmethod
    def _distinct(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) != len(values):
            raise ValueError("values repeat: each would measure the same samples twice")
        return values


class GuidanceBaseline(_SampledBaseline):
    """The base with classifier-free guidance by its own predictions without labels; one evaluation per scale."""

    kind: Literal["guidance"] = "guidance"
    scales: Scales = Field(description="sampler.guidance_scale: w of a diffusion model (1 is none), s of a VAR (0).")

    def samplers(self, sampler: SamplerSettings) -> tuple[SamplerSettings, ...]:
        """Return the job's sampler at each of the scales."""
        own = {} if isinstance(sampler, AutoregressiveSettings) else {"guide_sees_labels": False}
        return tuple(sampler.model_copy(update={"guidance_scale": scale, **own}) for scale in self.scales)


class AutoguidanceBaseline(_SampledBaseline):
    """The base of a diffusion model guided by another network (arXiv:2406.02507); one evaluation per scale."""

    kind: Literal["autoguidance"] = "autoguidance"
    scales: Scales = Field(description="sampler.guidance_scale: w of the guide, 1 is none.")
    guide: Uri | None = Field(
        default=None,
        description="The network that guides: a smaller or less trained one, or one without labels, which makes it "
        "classifier-free guidance. None: the job's guide.",
    )

    def samplers(self, sampler: SamplerSettings) -> tuple[SamplerSettings, ...]:
        """Return the job's sampler at each of the scales."""
        return tuple(
            sampler.model_copy(update={"guidance_scale": scale, "guide_sees_labels": True}) for scale in self.scales
        )


class DiscriminatorGuidanceBaseline(_SampledBaseline):
    """The base of a diffusion model corrected by a discriminator of the data and of round 1's reference set.

    The discriminator is trained once (arXiv:2211.17091); one evaluation per weight.
    """

    kind: Literal["discriminator_guidance"] = "discriminator_guidance"
    weights: Scales = Field(default=(1.0,), description="sampler.discriminator_weight: 1 is the exact correction.")
    training: DiscriminatorTraining
    network: DiscriminatorNetwork = DiscriminatorNetwork()

    def samplers(self, sampler: SamplerSettings) -> tuple[SamplerSettings, ...]:
        """Return the job's sampler at each of the weights."""
        return tuple(sampler.model_copy(update={"discriminator_weight": weight}) for weight in self.weights)


def _kind_of(value: Any) -> str:
    return str(value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None))


BASELINE_KINDS = ("mle", "cca", "guidance", "autoguidance", "discriminator_guidance")
BaselineSettings = Annotated[
    Annotated[MLEBaseline, Tag("mle")]
    | Annotated[CCABaseline, Tag("cca")]
    | Annotated[GuidanceBaseline, Tag("guidance")]
    | Annotated[AutoguidanceBaseline, Tag("autoguidance")]
    | Annotated[DiscriminatorGuidanceBaseline, Tag("discriminator_guidance")],
    Discriminator(
        _kind_of,
        custom_error_type="baseline_kind",
        custom_error_message="kind must be one of " + ", ".join(BASELINE_KINDS),
    ),
]
TrainedBaseline = MLEBaseline | CCABaseline
SampledBaseline = GuidanceBaseline | AutoguidanceBaseline | DiscriminatorGuidanceBaseline


def refuse_unfit_baselines(
    baselines: Sequence[TrainedBaseline | SampledBaseline],
    sampler: SamplerSettings,
    evaluation: EvaluationSettings,
    guide: Uri | None,
) -> None:
    """Refuse what the rest of the job rules out, or what would be measured twice.

    Args:
        baselines: The job's.
        sampler: The job's, whose kind tells a VAR from a diffusion model.
        evaluation: The job's: at its scales the base is measured in round 0.
        guide: The job's.

    Raises:
        ValueError: Naming field and remedy.
    """
    is_var = isinstance(sampler, AutoregressiveSettings)
    for index, baseline in enumerate(baselines):
        field = f"baselines[{index}]"
        _refuse_repetition(field, baseline, baselines[:index])
        if isinstance(baseline, CCABaseline) and not is_var:
            raise ValueError(
                f"{field}.kind: 'cca' contrasts the labels of a VAR, this is a diffusion model (sampler "
                f"{sampler.kind!r}): leave it out"
            )
        if isinstance(baseline, AutoguidanceBaseline | DiscriminatorGuidanceBaseline) and is_var:
            raise ValueError(
                f"{field}.kind: {baseline.kind!r} changes the score of a diffusion model, and a VAR has none: choose "
                "'guidance'"
            )
        if isinstance(baseline, AutoguidanceBaseline) and baseline.guide is None and guide is None:
            raise ValueError(
                f"{field}.guide: there is nothing to guide with: name a checkpoint here, or the job's guide"
            )
        if isinstance(baseline, SampledBaseline):
            measured = [sampler.at_scale(scale) for scale in evaluation.scales(sampler)]
            _refuse_the_base_again(field, baseline, measured, guide)


def _refuse_repetition(
    field: str,
    baseline: TrainedBaseline | SampledBaseline,
    before: Sequence[TrainedBaseline | SampledBaseline],
) -> None:
    for index, other in enumerate(before):
        if other == baseline:
            raise ValueError(f"{field}: it repeats baselines[{index}]: leave one of them out")
        if isinstance(baseline, SampledBaseline) and other.kind == baseline.kind:
            values = "weights" if isinstance(baseline, DiscriminatorGuidanceBaseline) else "scales"
            raise ValueError(
                f"{field}.kind: there is {baseline.kind!r} already: give all {values} in baselines[{index}]"
            )


def _refuse_the_base_again(
    field: str, baseline: SampledBaseline, measured: Sequence[SamplerSettings], guide: Uri | None
) -> None:
    """Refuse a scale at which the base is sampled as round 0 samples it, with one of the samplers ``measured``."""
    has_another_guide = isinstance(baseline, GuidanceBaseline) and guide is not None
    if isinstance(baseline, AutoguidanceBaseline):
        has_another_guide = baseline.guide is not None
    values = "weights" if isinstance(baseline, DiscriminatorGuidanceBaseline) else "scales"
    for index, changed in enumerate(baseline.samplers(measured[0])):
        for sampler in measured:
            is_same = changed == sampler and not (has_another_guide and sampler.is_guided)
            if is_same or (values == "scales" and not (changed.is_guided or sampler.is_guided)):
                raise ValueError(f"{field}.{values}[{index}]: round 0 measures the base so already: leave this one out")

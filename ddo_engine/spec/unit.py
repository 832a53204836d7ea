"""What a unit of work is told: the JSON file that ``python -m ddo_engine COMMAND spec.json`` reads."""

from typing import Annotated, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from ddo_engine.spec.base import FileRef, Seed, Settings
from ddo_engine.spec.baseline import BaselineSettings
from ddo_engine.spec.discriminator import DiscriminatorNetwork, DiscriminatorTraining
from ddo_engine.spec.evaluation import EvaluationSettings
from ddo_engine.spec.reference_set import OnlineReferenceSet
from ddo_engine.spec.sampler import HeunSettings, SamplerSettings
from ddo_engine.spec.settings import IMAGES_AS_STORED, DatasetReading, Objective, TrainingSettings


class _WithModel(Settings):
    checkpoint: FileRef
    autoencoder: FileRef | None = Field(
        default=None, description="Of a checkpoint that works on tokens or latents: what maps these to pixels."
    )


class _WithSampledModel(_WithModel):
    guide: FileRef | None = Field(default=None, description="The network that guides, for sampler.guidance_scale.")
    discriminator: FileRef | None = Field(
        default=None, description="What a unit 'discriminator' has written, for sampler.discriminator_weight."
    )


class ValidateSpec(_WithSampledModel):
    """Read the inputs once, before any training: damaged or unfit ones end the job here.

    Checkpoints in their authors' formats are converted, in a process of its own.
    """

    kind: Literal["validate"] = "validate"
    dataset: FileRef
    feature_network: FileRef
    reference_statistics: FileRef | None = Field(
        default=None, description="Statistics of real images that FID and sFID are taken against, not the dataset's."
    )
    dataset_reading: DatasetReading = IMAGES_AS_STORED
    grey_levels: int = Field(default=256, ge=2, le=256)
    sampler: SamplerSettings = HeunSettings()
    training: TrainingSettings | None = Field(default=None, description="What the job's trials will be told.")
    later_training: tuple[TrainingSettings, ...] = Field(default=(), description="The same of later rounds.")
    online_reference_set: OnlineReferenceSet | None = Field(
        default=None, description="How their fakes will be drawn, if beside each batch."
    )
    evaluation: EvaluationSettings | None = Field(default=None, description="What they will measure.")
    baselines: tuple[BaselineSettings, ...] = Field(default=(), description="What they will be compared with.")
    baseline_guide: FileRef | None = Field(
        default=None, description="The network that guides the baseline 'autoguidance', if it has one of its own."
    )

    @model_validator(mode="after")
    def _crops_have_room(self) -> Self:
        for training in (self.training, *self.later_training):
            if training is not None:
                self.dataset_reading.refuse_crops_of(training)
        return self


class GenerateSpec(_WithSampledModel):
    """Draw images ``first_seed … first_seed + num_samples − 1`` into a dataset zip, labels included."""

    kind: Literal["reference"] = "reference"
    dataset: FileRef | None = Field(default=None, description="Gives class frequencies; needed for labels='dataset'.")
    sampler: SamplerSettings = HeunSettings()
    first_seed: int = Field(default=0, ge=0)
    num_samples: int = Field(ge=1)
    dataset_reading: DatasetReading = IMAGES_AS_STORED
    grey_levels: int = Field(default=256, ge=2, le=256)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        # generators take the lowest 32 bits of a seed: beyond them the same images would come again
        if self.first_seed + self.num_samples > 2**32:
            raise ValueError("seeds end at 2**32 - 1: lower first_seed or num_samples")
        return self


class TrainSpec(_WithSampledModel):
    """One trial. ``checkpoint`` is both the initial weights and, for DDO, the frozen reference."""

    kind: Literal["trial"] = "trial"
    dataset: FileRef
    reference_set: tuple[FileRef, ...] = Field(default=(), description="Shards in order of their seeds. DDO only.")
    online_reference_set: OnlineReferenceSet | None = Field(
        default=None, description="Draw the fakes beside each batch instead. DDO only."
    )
    feature_network: FileRef | None = None
    reference_statistics: FileRef | None = Field(
        default=None, description="Statistics of real images that FID and sFID are taken against, not the dataset's."
    )
    state: FileRef | None = Field(default=None, description="Training state to go on from.")
    objective: Objective
    training: TrainingSettings
    sampler: SamplerSettings = HeunSettings()
    evaluation: EvaluationSettings | None = None
    dataset_reading: DatasetReading = IMAGES_AS_STORED
    grey_levels: int = Field(default=256, ge=2, le=256)
    seed: Seed = 0

    @model_validator(mode="after")
    def _crops_have_room(self) -> Self:
        self.dataset_reading.refuse_crops_of(self.training)
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.objective.kind == "ddo" and not self.reference_set and self.online_reference_set is None:
            raise ValueError(
                "objective 'ddo' needs reference_set: run 'generate' first, or give online_reference_set (VAR)"
            )
        if self.objective.kind != "ddo" and (self.reference_set or self.online_reference_set is not None):
            field = "reference_set" if self.reference_set else "online_reference_set"
            raise ValueError(f"{field}: objective {self.objective.kind!r} sees no fakes: leave it out")
        if self.reference_set and self.online_reference_set is not None:
            raise ValueError("online_reference_set: fakes are stored or drawn: give it, or reference_set")
        if self.evaluation is not None and self.feature_network is None:
            raise ValueError("evaluation needs feature_network")
        if self.evaluation is None and self.reference_statistics is not None:
            raise ValueError("reference_statistics: without evaluation nothing is taken against them: leave it out")
        if self.evaluation is not None:
            self.evaluation.refuse_scale_of(self.sampler)
        return self


class EvaluateSpec(_WithSampledModel):
    """Measure one checkpoint under one or more protocols."""

    kind: Literal["evaluate"] = "evaluate"
    dataset: FileRef = Field(description="Its features are the reference statistics.")
    feature_network: FileRef
    reference_statistics: FileRef | None = Field(
        default=None, description="Statistics of real images that FID and sFID are taken against, not the dataset's."
    )
    sampler: SamplerSettings = HeunSettings()
    evaluations: tuple[EvaluationSettings, ...] = Field(min_length=1)
    dataset_reading: DatasetReading = IMAGES_AS_STORED
    grey_levels: int = Field(default=256, ge=2, le=256)
    denoising_dataset: FileRef | None = Field(
        default=None, description="Also report the family's pretraining loss on these images (lower is better)."
    )
    P_mean: float = Field(default=-1.2, description="Noise distribution of that loss.")
    P_std: float = Field(default=1.2, gt=0)

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        for index, evaluation in enumerate(self.evaluations):
            evaluation.refuse_scale_of(self.sampler, f"evaluations[{index}]")
        return self


class DiscriminatorSpec(_WithModel):
    """Train a discriminator of a checkpoint's samples and the data: it corrects the checkpoint while it draws."""

    kind: Literal["discriminator"] = "discriminator"
    dataset: FileRef
    reference_set: tuple[FileRef, ...] = Field(
        min_length=1, description="Shards that 'generate' has drawn from the checkpoint, in order of their seeds."
    )
    state: FileRef | None = Field(default=None, description="Training state to go on from.")
    network: DiscriminatorNetwork = DiscriminatorNetwork()
    training: DiscriminatorTraining
    dataset_reading: DatasetReading = IMAGES_AS_STORED
    grey_levels: int = Field(default=256, ge=2, le=256)
    seed: Seed = 0


_AnyUnitSpec = ValidateSpec | GenerateSpec | TrainSpec | EvaluateSpec | DiscriminatorSpec
UnitSpec = Annotated[_AnyUnitSpec, Field(discriminator="kind")]
UNIT_SPEC: TypeAdapter[_AnyUnitSpec] = TypeAdapter(UnitSpec)

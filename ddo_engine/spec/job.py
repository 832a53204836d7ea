"""A finetuning job: the body of ``POST /jobs``."""

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ddo_engine.presets import with_preset
from ddo_engine.spec.base import Seed, Settings, Uri, UriOrInception
from ddo_engine.spec.baseline import (
    MOST_BASELINES,
    AutoguidanceBaseline,
    BaselineSettings,
    MLEBaseline,
    TrainedBaseline,
    refuse_unfit_baselines,
)
from ddo_engine.spec.evaluation import ConfirmSettings, EvaluationSettings
from ddo_engine.spec.reference_set import ReferenceSetSettings
from ddo_engine.spec.rounds import RoundOverride, RoundSettings, StopSettings
from ddo_engine.spec.sampler import HeunSettings, SamplerSettings
from ddo_engine.spec.settings import DatasetSettings, Grid, TrainingSettings


class JobSpec(Settings):
    """A finetuning job: the body of ``POST /jobs``. ``preset`` fills what the body leaves out."""

    name: str | None = Field(default=None, min_length=1, max_length=120)
    preset: str | None = Field(default=None, description="Settings to start from; fields given in the body win.")
    base_checkpoint: Uri = Field(
        description="The model to finetune: first reference and first weights. A file, or in the service "
        "'checkpoint:ckpt_…', a checkpoint of another job."
    )
    autoencoder: Uri | None = Field(
        default=None,
        description="What maps pixels to the model's tokens or latents and back: the VQVAE of a VAR model, the "
        "AutoencoderKL of an EDM2 model of latents.",
    )
    guide: Uri | None = Field(
        default=None, description="The network that guides sampling, for sampler.guidance_scale (autoguidance)."
    )
    dataset: DatasetSettings
    feature_network: UriOrInception = Field(
        description="The network in whose features FID is measured: a file, or 'inception', the Inception-v3 that the "
        "service's operator has set up."
    )
    reference_statistics: Uri | None = Field(
        default=None,
        description="Published statistics of real images that FID and sFID are taken against instead of the dataset's: "
        "an npz with mu and sigma (EDM, OpenAI), or EDM2's pickle.",
    )
    rounds: int = Field(ge=1, le=100)
    grid: Grid
    training: TrainingSettings
    round_overrides: tuple[RoundOverride, ...] = Field(
        default=(),
        max_length=32,
        description="Settings that change from a round on, in order of rounds. Those of rounds that the job never "
        "reaches change nothing.",
    )
    stop: StopSettings = StopSettings()
    sampler: SamplerSettings = HeunSettings()
    reference_set: ReferenceSetSettings
    evaluation: EvaluationSettings
    confirm: ConfirmSettings | None = None
    baselines: tuple[BaselineSettings, ...] = Field(
        default=(),
        max_length=MOST_BASELINES,
        description="What DDO is to be compared with: measured from the job's base under the job's protocol, while "
        "workers have nothing else to do. Never winners, and no round starts from one.",
    )
    seed: Seed = 0
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: object) -> object:
        return with_preset(value) if isinstance(value, dict) else value

    @field_validator("round_overrides")
    @classmethod
    def _overrides_in_order(cls, overrides: tuple[RoundOverride, ...]) -> tuple[RoundOverride, ...]:
        firsts = [override.from_round for override in overrides]
        if firsts != sorted(set(firsts)):
            raise ValueError("give each from_round once, in rising order")
        return overrides

    @model_validator(mode="after")
    def _overrides_give_whole_settings(self) -> Self:
        for index, override in enumerate(self.round_overrides):
            try:
                self.settings_of(override.from_round)
            except ValidationError as error:
                found = error.errors()[0]
                field = ".".join((f"round_overrides[{index}].training", *(str(part) for part in found["loc"])))
                reason = found.get("ctx", {}).get("error", found["msg"])
                raise ValueError(f"{field}: from round {override.from_round} on, {reason}") from error
        return self

    @model_validator(mode="after")
    def _crops_have_room(self) -> Self:
        self.dataset.refuse_crops_of(self.training)
        for index, override in enumerate(self.round_overrides):
            training = self.settings_of(override.from_round).training
            self.dataset.refuse_crops_of(training, f"round_overrides[{index}].training")
        return self

    @model_validator(mode="after")
    def _fakes_can_be_drawn(self) -> Self:
        if self.reference_set.kind == "online" and self.sampler.kind != "autoregressive":
            raise ValueError(
                f"reference_set.kind: 'online' draws fakes beside every batch, which a diffusion model (sampler "
                f"{self.sampler.kind!r}) is too slow for: choose 'offline', and give num_samples"
            )
        return self

    @model_validator(mode="after")
    def _samples_are_the_models_own(self) -> Self:
        if getattr(self.sampler, "discriminator_weight", 0) != 0:
            raise ValueError(
                "sampler.discriminator_weight: a job's models draw without a discriminator: leave it out, and ask for "
                "the baseline 'discriminator_guidance'"
            )
        return self

    @model_validator(mode="after")
    def _probe_has_a_beta_to_find(self) -> Self:
        fields = {"training.probe_kimg": self.training.probe_kimg} | {
            f"round_overrides[{index}].training.probe_kimg": override.training.get("probe_kimg")
            for index, override in enumerate(self.round_overrides)
        }
        given = next((field for field, value in fields.items() if value is not None), None)
        if given is not None and not _finds_beta(self.grid, self.round_overrides):
            raise ValueError(f"{given}: it is the probe's that finds beta 'auto': add 'auto' to grid.beta")
        return self

    @model_validator(mode="after")
    def _samples_suffice(self) -> Self:
        neighbours = max(self.evaluation.neighbours or 0, self.evaluation.density_neighbours or 0)
        if self.evaluation.num_samples <= neighbours:
            raise ValueError(f"evaluation.num_samples: give more samples than neighbours ({neighbours})")
        if self.confirm is not None and self.confirm.num_samples <= neighbours:
            raise ValueError(f"confirm.num_samples: give more samples than evaluation.neighbours ({neighbours})")
        subset = self.evaluation.kid_subset_size if self.evaluation.kid_subsets is not None else 0
        if self.confirm is not None and self.confirm.num_samples < subset:
            raise ValueError(f"confirm.num_samples: fewer than evaluation.kid_subset_size ({subset}): raise it")
        splits = self.evaluation.inception_score_splits or 1
        if self.confirm is not None and self.confirm.num_samples % splits:
            raise ValueError(f"confirm.num_samples: must be divisible by evaluation.inception_score_splits ({splits})")
        return self

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        self.evaluation.refuse_scale_of(self.sampler)
        return self

    @model_validator(mode="after")
    def _baselines_fit(self) -> Self:
        refuse_unfit_baselines(self.baselines, self.sampler, self.evaluation, self.guide)
        for index, baseline in enumerate(self.baselines):
            if not isinstance(baseline, TrainedBaseline):
                continue
            try:
                self.baseline_training(baseline)
            except ValidationError as error:
                found = error.errors()[0]
                reason = found.get("ctx", {}).get("error", found["msg"])
                raise ValueError(f"baselines[{index}].kimg: with the training settings of round 1, {reason}") from error
        return self

    def settings_of(self, round_index: int) -> RoundSettings:
        """Return what the trials of a round are told: the job's settings, with all overrides up to that round.

        Args:
            round_index: From 1.
        """
        training, grid = self.training, self.grid
        for override in self.round_overrides:
            if override.from_round <= round_index:
                training = TrainingSettings.model_validate(dict(training) | override.training)
                grid = override.grid or grid
        return RoundSettings(training, grid)

    def baseline_training(self, baseline: TrainedBaseline) -> TrainingSettings:
        """Return what the trial of a baseline is told: round 1's settings, but for its length and what is DDO's alone.

        Raises:
            ValidationError: They do not go together with the length.
        """
        kimg = baseline.kimg
        if kimg is None:
            rounds = [self.settings_of(index).training for index in range(1, self.rounds + 1)]
            real_kimg = sum(training.num_steps * training.batch_size for training in rounds) / 1000
            kimg = 2 * real_kimg if isinstance(baseline, MLEBaseline) else real_kimg
        # half of the labels are dropped for the sake of DDO's unconditional rows: these keep what pretraining had
        changes = {"kimg": kimg, "label_dropout": None, "probe_kimg": None, "ema_snapshot_stds": ()}
        return TrainingSettings.model_validate(dict(self.training) | changes)

    @property
    def baseline_guide(self) -> Uri | None:
        """The network that guides the baseline 'autoguidance', where it names one of its own."""
        guides = (each.guide for each in self.baselines if isinstance(each, AutoguidanceBaseline))
        return next(guides, None)

    def after_round(self, round_index: int) -> Self:
        """Return the job that goes on where this one stands after a round: its round 1 is the next one of this job.

        At least one round is left, also after the last. The length of a probe is left out where none will run.
        """
        following = self.settings_of(round_index + 1)
        training = following.training
        overrides = tuple(
            override.model_copy(update={"from_round": override.from_round - round_index})
            for override in self.round_overrides
            if override.from_round > round_index + 1
        )
        if not _finds_beta(following.grid, overrides):
            training = training.model_copy(update={"probe_kimg": None})
            overrides = tuple(override for each in overrides if (override := each.without("probe_kimg")) is not None)
        return self.model_copy(
            update={
                "rounds": max(self.rounds - round_index, 1),
                "training": training,
                "grid": following.grid,
                "round_overrides": overrides,
            }
        )


def _finds_beta(grid: Grid, overrides: Iterable[RoundOverride]) -> bool:
    """Tell whether any round has a beta to find."""
    grids = [grid, *(override.grid for override in overrides if override.grid is not None)]
    return any("auto" in each.beta for each in grids)

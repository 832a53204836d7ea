"""Settings shared by jobs and units: objective, training, dataset."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ddo_engine.spec.base import PositiveFloat, Settings, Uri
from ddo_engine.spec.beta import Beta
from ddo_engine.spec.learning_rate import CosineSchedule, LearningRateSchedule

PROBE_SHARE = 0.1
FEWEST_PROBE_STEPS = 16


class DDOObjective(Settings):
    """The DDO loss, arXiv:2503.01103 eq. 13: alpha weighs the fake term, beta scales the log-likelihood ratio."""

    kind: Literal["ddo"] = "ddo"
    alpha: float = Field(ge=0, le=1e6)
    beta: Beta = Field(description="'auto': found by a short probe before the trial, see training.probe_kimg.")


class CCAObjective(Settings):
    """Condition contrastive alignment, arXiv:2410.09347: real images under other rows' labels in the place of fakes.

    A baseline of DDO for class-conditional VAR; ``alpha`` is that paper's lambda.
    """

    kind: Literal["cca"] = "cca"
    alpha: float = Field(ge=0, le=1e6)
    beta: float = Field(gt=0, le=1e6)


class MLEObjective(Settings):
    """The family's own pretraining loss: how bases are made, and the control that DDO is compared with."""

    kind: Literal["mle"] = "mle"


Objective = Annotated[DDOObjective | CCAObjective | MLEObjective, Field(discriminator="kind")]


class TrainingSettings(Settings):
    """One training run. Images are real ones: the fakes in the same batch are not counted."""

    kimg: PositiveFloat = Field(le=1e7, description="Length of a trial in thousands of real images.")
    batch_size: int = Field(ge=1, le=65536, description="Real images per step; a DDO step adds as many fakes.")
    micro_batch_size: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Real images (and as many fakes) that go through the network together; gradients add up over the "
        "batch. Saves memory, changes only last bits. None: the whole batch.",
    )
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate of Adam.")
    schedule: LearningRateSchedule = Field(
        default=CosineSchedule(), description="How the rate rises in warm-up and falls after it."
    )
    warmup_kimg: float = Field(
        default=0.0, ge=0, description="Linear warm-up from 0; all of kimg in the paper's EDM runs."
    )
    final_learning_rate_factor: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the peak at the end, for the schedules that come down to one: 'cosine' and 'var'.",
    )
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: PositiveFloat = Field(default=1e-8, le=1, description="What Adam adds to its denominator.")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Decoupled (AdamW), of the weights that the family lets decay; 0.05 in VAR's training.",
    )
    final_weight_decay: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Where weight_decay goes by half a cosine until the last step (VAR-d30: 0.08); None: it stays.",
    )
    max_gradient_norm: PositiveFloat | None = Field(
        default=None, description="Longer gradients are shortened to this norm, as VAR's training does to 2."
    )
    non_finite_gradients: Literal["stop", "replace"] = Field(
        default="stop",
        description="'stop' ends a trial whose gradient has NaN or infinite values. 'replace' puts 0 and ±1e5 in their "
        "place and counts them, as EDM's training does.",
    )
    ema_half_life_kimg: float | None = Field(
        default=None,
        ge=0,
        le=1e7,
        description="EMA weights forget half after so many thousand images; 0: they are the trained weights. Give this "
        "or ema_std, the other as null.",
    )
    ema_rampup_ratio: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="With ema_half_life_kimg: the half-life is at most this share of the trial's images so far (EDM's "
        "pretraining: 0.05). None: constant, as EDM has it when it starts from a trained network.",
    )
    ema_std: float | None = Field(
        default=None,
        ge=0.001,
        le=0.28,
        description="EMA by power function instead (EDM2): the standard deviation of its profile over the trial's "
        "images so far, as a share of them. 0.05 in the paper's EDM2 runs.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="What networks compute in under autocast; ratios and losses are always float32. VAR only: float16, "
        "with a loss scale, as the paper's VAR runs.",
    )
    compile: bool = Field(
        default=False,
        description="Let torch compile the blocks of the networks that train: minutes at the start, then faster steps "
        "with other last bits. Needs a compiler on the worker; not for weights in rows.",
    )
    memory_format: Literal["contiguous", "channels_last"] = Field(
        default="contiguous",
        description="How images lie in the memory of the networks that train; 'channels_last' for diffusion alone. "
        "Changes speed and last bits.",
    )
    label_dropout: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of rows that lose their label, so that guidance keeps working; VAR only. In DDO these rows "
        "have alpha 0. None: 0.5 in DDO as in the paper, in MLE and CCA what the checkpoint was pretrained with.",
    )
    unconditional_rows: Literal["data_term", "mle"] = Field(
        default="data_term",
        description="What rows without label minimise: 'data_term' is DDO's; 'mle' its tangent at ratio 0, which is "
        "beta / 2 times their negative log-likelihood and never saturates.",
    )
    normalise_by_alpha: bool | None = Field(
        default=None,
        description="Divide the DDO loss by max(alpha, 1), so that alphas differ in nothing but their balance of data "
        "and fakes. None: yes for VAR, as its authors do, no for diffusion.",
    )
    ema_snapshot_stds: tuple[Annotated[float, Field(ge=0.001, le=0.28)], ...] = Field(
        default=(),
        max_length=8,
        description="Averages by power function beside the one that is evaluated, each the weights again in memory; "
        "written at every evaluation, so that `reconstruct` can put together one of any length.",
    )
    probe_kimg: PositiveFloat | None = Field(
        default=None,
        le=1e7,
        description="Length of the probe that beta 'auto' is found by, in thousands of real images; None: a tenth of "
        "kimg, sixteen steps at least.",
    )
    stop_when_saturated: bool = Field(
        default=True,
        description="End a DDO trial whose discriminator tells nearly all images apart for two windows of diagnostics "
        "on end: nothing is left to learn at its beta. False: only warn.",
    )
    P_mean: float = Field(default=-1.2, ge=-10, le=10, description="Mean of log sigma.")
    P_std: float = Field(default=1.2, gt=0, le=10, description="Standard deviation of log sigma.")
    augment_probability: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="EDM's augmentation, of real and generated images alike, for networks that take its 9 labels; 0.12 "
        "in the paper's EDM runs, 0 turns it off.",
    )
    random_crop: bool = Field(
        default=False,
        description="Cut each real image out at another random place in every epoch, as VAR's training does; for "
        "dataset.transform 'var', which else takes the centre. Evaluation always does.",
    )
    evaluate_every_kimg: PositiveFloat = Field(description="Evaluate the EMA weights this often, and at the end.")
    save_state_every_kimg: PositiveFloat | None = Field(
        default=None, description="Write the resumable training state this often; None: at every evaluation."
    )

    @field_validator("adam_betas")
    @classmethod
    def _betas_in_range(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("both betas must lie in [0, 1)")
        return betas

    @model_validator(mode="after")
    def _intervals_fit(self) -> Self:
        if self.batch_size > self.kimg * 1000:
            raise ValueError("kimg is less than one batch: raise kimg or lower batch_size")
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise ValueError("micro_batch_size must not exceed batch_size: lower it, or leave it out")
        if self.warmup_kimg > self.kimg:
            raise ValueError("warmup_kimg must not exceed kimg")
        return self

    @model_validator(mode="after")
    def _final_factor_has_a_schedule(self) -> Self:
        if self.final_learning_rate_factor != 1 and self.schedule.kind in ("edm", "edm2"):
            raise ValueError(
                f"schedule {self.schedule.kind!r} knows no final_learning_rate_factor: leave it out, or choose 'cosine'"
            )
        return self

    @model_validator(mode="after")
    def _final_weight_decay_has_a_first(self) -> Self:
        if self.final_weight_decay is not None and self.weight_decay == 0:
            raise ValueError("final_weight_decay is where weight_decay goes: give weight_decay, or leave it out")
        return self

    @model_validator(mode="after")
    def _scaled_gradients_are_left_alone(self) -> Self:
        if self.precision == "float16" and self.non_finite_gradients == "replace":
            raise ValueError(
                "non_finite_gradients: precision 'float16' skips steps whose scaled gradient overflows, so there is "
                "nothing to replace: leave it at 'stop'"
            )
        return self

    @field_validator("ema_snapshot_stds")
    @classmethod
    def _averages_differ(cls, stds: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(stds)) != len(stds):
            raise ValueError("lengths repeat: each would be the same average twice")
        return stds

    @model_validator(mode="after")
    def _probe_is_shorter_than_the_trial(self) -> Self:
        if self.probe_kimg is not None and self.probe_kimg > self.kimg:
            raise ValueError("probe_kimg must not exceed kimg")
        return self

    @model_validator(mode="after")
    def _has_one_average(self) -> Self:
        if (self.ema_half_life_kimg is None) == (self.ema_std is None):
            raise ValueError("give exactly one of ema_half_life_kimg and ema_std, and leave the other out or null")
        if self.ema_rampup_ratio is not None and self.ema_half_life_kimg is None:
            raise ValueError("ema_rampup_ratio shortens ema_half_life_kimg: leave it out with ema_std")
        return self

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return -(-round(self.kimg * 1000) // self.batch_size)

    @property
    def num_probe_steps(self) -> int:
        """Steps of the probe that beta 'auto' is found by, on the first images of the run."""
        if self.probe_kimg is not None:
            return max(-(-round(self.probe_kimg * 1000) // self.batch_size), 1)
        return min(max(round(self.num_steps * PROBE_SHARE), FEWEST_PROBE_STEPS), self.num_steps)


class DatasetReading(Settings):
    """How stored images become those that models see. The defaults change nothing: images must then be all alike."""

    resolution: int | None = Field(
        default=None, ge=1, le=8192, description="Pixels a side; needed by a transform, without one it is checked."
    )
    transform: Literal["none", "center-crop", "center-crop-dhariwal", "var"] = Field(
        default="none",
        description="'center-crop' as EDM's tool (central square, Lanczos), 'center-crop-dhariwal' as EDM2's and ADM's "
        "(box halving, bicubic, centre), 'var' as VAR's (shorter side to 1.125 times the resolution, Lanczos, centre).",
    )
    convert: Literal["rgb", "grey"] | None = Field(
        default=None,
        description="Convert all images to these colours, palettes and CMYK too; None: all must be like the first.",
    )

    @model_validator(mode="after")
    def _transform_has_a_resolution(self) -> Self:
        if self.transform != "none" and self.resolution is None:
            raise ValueError(f"transform {self.transform!r} needs resolution: give the pixels a side")
        return self

    def refuse_crops_of(self, training: TrainingSettings, field: str = "training") -> None:
        """Refuse to cut at random what is not cut at all, or cut before it is resized.

        Raises:
            ValueError: Naming the setting, which is one of ``field``.
        """
        if training.random_crop and self.transform != "var":
            raise ValueError(
                f"{field}.random_crop: dataset.transform is {self.transform!r}, and only 'var' leaves room to cut at "
                "random: set it to 'var', or leave random_crop out"
            )


IMAGES_AS_STORED = DatasetReading()


class DatasetSettings(DatasetReading):
    """Images (docs/datasets.md lists the formats), and what one must know to generate images like them."""

    uri: Uri
    grey_levels: int = Field(
        default=256,
        ge=2,
        le=256,
        description="Equally spaced values that a pixel takes; generated images are rounded to the same.",
    )

    @property
    def reading(self) -> DatasetReading:
        """What units of work are told of these settings."""
        return DatasetReading(resolution=self.resolution, transform=self.transform, convert=self.convert)


class Grid(Settings):
    """Every alpha with every beta: one trial each."""

    alpha: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] = Field(min_length=1, max_length=32)
    beta: tuple[Beta, ...] = Field(
        min_length=1, max_length=32, description="'auto', which may stand beside numbers, is found by a short probe."
    )

    @field_validator("alpha", "beta")
    @classmethod
    def _distinct(cls, values: tuple[float | str, ...]) -> tuple[float | str, ...]:
        if len(set(values)) != len(values):
            raise ValueError("values repeat: each would train the same trial twice")
        return values

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if len(self.cells) > 128:
            raise ValueError("more than 128 trials a round")
        return self

    @property
    def cells(self) -> list[DDOObjective]:
        """The trials in order of their index: alpha outer, beta inner."""
        return [DDOObjective(alpha=alpha, beta=beta) for alpha in self.alpha for beta in self.beta]

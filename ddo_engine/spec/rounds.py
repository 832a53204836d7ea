"""What a job says of its rounds: settings that change from one on, and when there are enough of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from ddo_engine.spec.base import PositiveFloat, Settings
from ddo_engine.spec.partial import partial
from ddo_engine.spec.settings import Grid, TrainingSettings

if TYPE_CHECKING:
    TrainingChanges = dict[str, Any]
else:
    TrainingChanges = partial(TrainingSettings)


class RoundOverride(Settings):
    """Settings that hold from one round on, over those of the rounds before; the rest stays.

    The sampler and the evaluation stay for the whole job: numbers under other protocols could not be compared.
    """

    from_round: int = Field(ge=2, le=100, description="The first round that they hold for; round 1 has the job's own.")
    training: TrainingChanges = Field(
        default_factory=dict,
        description="Fields of training that change, each replaced whole: P_std to 3.0 and learning_rate to 2e-5 from "
        "round 17 on in the paper's EDM2 runs.",
    )
    grid: Grid | None = Field(default=None, description="Another grid; None: it stays.")

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.training and self.grid is None:
            raise ValueError("changes nothing: give training or grid, or leave the override out")
        return self

    def without(self, field: str) -> Self | None:
        """Return the override without a field of training; None if it then changes nothing."""
        training = {name: value for name, value in self.training.items() if name != field}
        return self.model_copy(update={"training": training}) if training or self.grid is not None else None


@dataclass(frozen=True)
class RoundSettings:
    """What the trials of one round are told."""

    training: TrainingSettings
    grid: Grid


class StopSettings(Settings):
    """When a job ends before its last round.

    A round improves if its winner's FID lies below the FID that was reached at the last improvement (at first the
    base's) by more than ``threshold``. FIDs are those of the protocol that the job ranks with.
    """

    patience_rounds: int = Field(
        default=1, ge=1, le=100, description="End after so many rounds in a row without improvement."
    )
    min_improvement: float = Field(
        default=0.0, ge=0, le=1e6, description="In FID. What a round must gain by more than this, to count."
    )
    evaluation_noise: PositiveFloat | None = Field(
        default=None,
        le=1e6,
        description="Standard deviation of the FID of one model over the seeds of its evaluation, where it is known: a "
        "round must gain more than twice this.",
    )
    noise_seeds: int | None = Field(
        default=None,
        ge=2,
        le=16,
        description="Measure that noise instead: round 0 evaluates the base with so many further seeds.",
    )

    @model_validator(mode="after")
    def _noise_has_one_source(self) -> Self:
        if self.evaluation_noise is not None and self.noise_seeds is not None:
            raise ValueError("the noise is given or measured: leave out evaluation_noise or noise_seeds")
        return self

    def threshold(self, noise: float) -> float:
        """Return what a round must gain by more than, given the standard deviation of a FID over seeds.

        Trials and base share the latents of their evaluations, so that the spread of a difference is at most
        sqrt(2) times that of one number: twice the noise lies beyond 1.4 of its standard deviations.
        """
        return max(self.min_improvement, 2 * noise)

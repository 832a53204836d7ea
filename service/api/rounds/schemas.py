"""The round chain as clients see it."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from ddo_engine.spec import Grid, TrainingSettings
from service.statuses import RoundStatus, UnitStatus


class Measured(BaseModel):
    """Numbers of one evaluation."""

    evaluation_id: str
    checkpoint_id: str | None
    kimg: float
    fid: float
    precision: float | None
    recall: float | None
    inception_score: float | None
    metrics: dict[str, float] = Field(
        description="All that was measured: these numbers, and where the evaluation asks for them `sfid`, `kid` with "
        "`kid_std`, `density`, `coverage`."
    )
    num_samples: int | None = Field(description="Images behind the numbers.")
    guidance_scale: float = Field(description="What they were sampled at: sampler.guidance_scale, or one of the curve.")
    fingerprint: str = Field(description="Hash of the protocol; numbers with different ones must not be compared.")
    samples_id: str | None = Field(
        examples=["art_0198f3a1b2c3d4e5f60718293a"],
        description="A picture of the first samples, for `POST /artifacts/{id}/download`. Those of one fingerprint "
        "show the same latents and labels in the same places. Null at other guidance scales than the sampler's.",
    )


class GuidanceCurve(BaseModel):
    """One checkpoint at all guidance scales of the job, on the same latents and labels."""

    points: list[Measured] = Field(description="In order of the scale; each has a fingerprint of its own.")
    best: Measured | None = Field(description="The point with the lowest FID; null before any was measured.")


class TrialError(BaseModel):
    """Why a trial failed."""

    code: str | None
    message: str | None


class TrialWarning(BaseModel):
    """Something about a trial that deserves a look; each code comes once."""

    code: str = Field(examples=["discriminator_saturated"])
    message: str
    step: int
    kimg: float


class Trial(BaseModel):
    """One cell of the grid."""

    trial_index: int
    alpha: float
    beta: float | Literal["auto"] = Field(description="As in the grid.")
    found_beta: float | None = Field(description="What 'auto' came to; null before, and where beta is a number.")
    warnings: list[TrialWarning]
    status: UnitStatus
    unit_id: str
    attempt: int = Field(description="How often a worker took it up.")
    best_fid: float | None = Field(description="Lowest FID of its evaluations so far, by the search protocol.")
    best_kimg: float | None = Field(description="Where in its training that was.")
    best: Measured | None
    confirmed: Measured | None = Field(
        description="The same checkpoint under the confirm protocol, if it was a finalist."
    )
    curve: GuidanceCurve | None = Field(
        description="The same checkpoint at every guidance scale, by the confirm protocol if it was a finalist; null "
        "where the job measures at one."
    )
    progress: dict[str, Any] | None = Field(description="What the unit last said: phase, done, total, unit.")
    error: TrialError | None


class Winner(BaseModel):
    """The best checkpoint that a round trained: the next round's reference if it beats its own."""

    checkpoint_id: str
    trial_index: int | None = Field(description="Null in round 0.")
    alpha: float | None
    beta: float | None
    kimg: float
    measured: Measured | None = Field(description="By the protocol that the job ranks with.")
    curve: GuidanceCurve | None = Field(
        description="By the same protocol, at every guidance scale; null where the job measures at one."
    )


class RoundSettings(BaseModel):
    """What the trials of a round are told: the job's settings, with all of its `round_overrides` up to that round."""

    training: TrainingSettings
    grid: Grid


class Round(BaseModel):
    """One round; round 0 is the base checkpoint under the job's protocols."""

    round_index: int
    status: RoundStatus
    reference_checkpoint_id: str | None = Field(description="What the trials start from and are told apart from.")
    reference_fid: float | None = Field(description="Its FID by the protocol that the job ranks with.")
    best_fid: float | None = Field(description="The winner's FID by the same protocol; null until there is one.")
    winner: Winner | None
    settings: RoundSettings | None = Field(description="Null in round 0, which trains nothing.")
    trials: list[Trial]
    created_at: datetime
    finished_at: datetime | None


class TrainingPoint(BaseModel):
    """Training diagnostics at one point, averaged since the point before."""

    step: int
    kimg: float
    values: dict[str, float] = Field(examples=[{"loss": 1.37, "real_ratio": 0.4, "fake_ratio": -0.6}])


class TrialMetrics(BaseModel):
    """A trial's curves, in order of kimg."""

    training: list[TrainingPoint]
    evaluations: list[Measured]
    has_more: bool
    next_since_kimg: float | None = Field(description="Pass as `since_kimg` for what comes next; null at the end.")

"""Baselines as clients see them."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from ddo_engine.spec import BaselineSettings
from service.api.jobs.schemas import BaselineKind
from service.api.rounds.schemas import Measured, TrialError, TrialWarning
from service.statuses import UnitKind, UnitStatus


class BaselineStatus(StrEnum):
    """Where a baseline stands: what its units have come to."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class BaselineUnit(BaseModel):
    """One unit of work of a baseline."""

    unit_id: str
    kind: UnitKind
    position: int = Field(description="Of evaluations of the base: the index of the scale or weight.")
    status: UnitStatus
    attempt: int = Field(description="How often a worker took it up.")
    progress: dict[str, Any] | None = Field(description="What the unit last said: phase, done, total, unit.")
    error: TrialError | None


class ProtocolDifference(BaseModel):
    """A field in which an evaluation's protocol differs from that of the base; null where one has no such field."""

    field: str = Field(examples=["sampler.guidance_scale"])
    base: Any
    baseline: Any


class BaselineEvaluation(Measured):
    """Numbers of one evaluation, and whether they may be compared with those of base and trials as they are."""

    scale: float | None = Field(description="guidance_scale or discriminator_weight; null of a trained baseline.")
    differs: list[ProtocolDifference] | None = Field(
        description="From the protocol of the base on the same samples: empty where the fingerprints are equal, null "
        "until the base was measured."
    )


class Baseline(BaseModel):
    """What one baseline has found. It is never a winner, and no round starts from it."""

    baseline_index: int
    kind: BaselineKind
    settings: BaselineSettings
    status: BaselineStatus = Field(
        description="'pending': it waits for round 1's reference set. One that fails fails alone."
    )
    error: TrialError | None = Field(description="Of the first unit that failed.")
    warnings: list[TrialWarning]
    best: BaselineEvaluation | None = Field(description="Lowest FID so far, by the search protocol.")
    confirmed: BaselineEvaluation | None = Field(description="The same under the confirm protocol, where there is one.")
    checkpoint_id: str | None = Field(
        description="What was measured as best, to be downloaded: that which a trained baseline kept, else the base."
    )
    discriminator_id: str | None = Field(description="Its discriminator, for `POST /artifacts/{id}/download`.")
    evaluations: list[BaselineEvaluation]
    units: list[BaselineUnit]

"""Checkpoints beside one another, as clients see them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.rounds.schemas import Measured

MetricName = Literal["fid", "sfid", "kid", "precision", "recall", "density", "coverage", "inception_score"]
LOWER_IS_BETTER: frozenset[MetricName] = frozenset({"fid", "sfid", "kid"})


class Compared(BaseModel):
    """One checkpoint of a comparison."""

    rank: int = Field(description="1 is the best; equal values share the lower rank.")
    value: float = Field(description="Of the metric that ranks.")
    checkpoint_id: str
    job_id: str
    round_index: int
    trial_index: int | None = Field(description="Null for a base checkpoint, and for those of baselines.")
    baseline_index: int | None = Field(description="In its job's baselines, where one of them trained it.")
    alpha: float | None
    beta: float | None
    kimg: float
    evaluation: Measured


class Comparison(BaseModel):
    """Checkpoints of one job or several, ranked by numbers of one protocol."""

    metric: MetricName
    lower_is_better: bool
    fingerprint: str = Field(description="Of the protocol that all of the numbers were measured under.")
    protocol: dict[str, Any] = Field(description="What the fingerprint is of.")
    data: list[Compared] = Field(description="Best first.")


class Difference(BaseModel):
    """A part of the protocol that keeps two numbers from being compared."""

    param: str = Field(description="Path in the protocol.", examples=["sampler.num_steps"])
    values: dict[str, Any] = Field(
        description="What each of the two checkpoints was measured with, by id; null where it says nothing of it."
    )

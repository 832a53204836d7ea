"""Checkpoints as clients see them."""

from datetime import datetime

from pydantic import BaseModel, Field

from service.api.rounds.schemas import Measured


class Checkpoint(BaseModel):
    """A checkpoint that can be downloaded."""

    id: str = Field(examples=["ckpt_0198f3a1b2c3d4e5f60718293a"])
    job_id: str
    round_index: int
    trial_index: int | None = Field(description="Null for the base checkpoint, and for those of baselines.")
    baseline_index: int | None = Field(description="In the job's baselines, where one of them trained it.")
    alpha: float | None
    beta: float | None
    kimg: float = Field(description="Thousands of real images trained on within its round.")
    rank: int | None = Field(description="1 is the job's best; null where the ranking protocol did not measure it.")
    fid: float | None = Field(description="By the protocol that the job ranks with.")
    evaluations: list[Measured]
    lineage: list[str] = Field(
        description="Checkpoint ids from the base to this one: each was the next one's reference, or what its job "
        "branched from."
    )
    sha256: str
    size_bytes: int
    created_at: datetime

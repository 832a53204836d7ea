"""Checkpoints as clients see them."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

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


class DownloadRequest(BaseModel):
    """How long the URL shall live."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_in_seconds: int | None = Field(
        default=None, ge=1, le=900, description="Null: the service's setting, 900 at most."
    )


class Download(BaseModel):
    """A signed URL: it needs no key, serves one GET path until it expires, and supports range requests."""

    url: str
    expires_at: datetime
    sha256: str = Field(description="Compare it with what you downloaded.")
    size_bytes: int
    filename: str

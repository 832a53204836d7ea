"""Files beside the checkpoints, as clients see them."""

from datetime import datetime

from pydantic import BaseModel, Field


class Snapshot(BaseModel):
    """An average of a trial's weights by power function, which `reconstruct` puts others together from."""

    id: str = Field(examples=["art_0198f3a1b2c3d4e5f60718293a"])
    name: str = Field(examples=["snapshot-0.05-51.200.safetensors"])
    ema_std: float = Field(description="One of `training.ema_snapshot_stds`.")
    kimg: float = Field(description="Thousands of real images that the trial had seen.")
    sha256: str
    size_bytes: int
    created_at: datetime

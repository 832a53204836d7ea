"""How a time-aware discriminator of real and generated images is built and trained (arXiv:2211.17091)."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ddo_engine.spec.base import PositiveFloat, Settings


class DiscriminatorNetwork(Settings):
    """Size of the network: residual blocks, the resolution halved between levels, a linear layer at the end."""

    model_channels: int = Field(default=64, ge=4, le=1024, multiple_of=4, description="Channels of the first level.")
    channel_mult: tuple[Annotated[int, Field(ge=1, le=16)], ...] = Field(
        default=(1, 2),
        min_length=1,
        max_length=8,
        description="Channels of each level, in those of the first; the resolution is halved once per level but the "
        "first.",
    )
    num_blocks: int = Field(default=1, ge=1, le=16, description="Residual blocks per level.")


class DiscriminatorTraining(Settings):
    """Training of a discriminator: as many fakes as real images a step, each pair at one noise level."""

    kimg: PositiveFloat = Field(le=1e7, description="Length in thousands of real images.")
    batch_size: int = Field(ge=1, le=65536, description="Real images per step; as many fakes are added.")
    learning_rate: float = Field(gt=0, le=1, description="Peak learning rate of Adam; it falls to 0 by half a cosine.")
    P_mean: float = Field(default=-1.2, ge=-10, le=10, description="Mean of log sigma.")
    P_std: float = Field(default=1.2, gt=0, le=10, description="Standard deviation of log sigma.")
    save_state_every_kimg: PositiveFloat | None = Field(
        default=None, description="Write the resumable training state this often; None: only when interrupted."
    )

    @model_validator(mode="after")
    def _has_a_batch(self) -> Self:
        if self.batch_size > self.kimg * 1000:
            raise ValueError("kimg is less than one batch: raise kimg or lower batch_size")
        return self

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return -(-round(self.kimg * 1000) // self.batch_size)

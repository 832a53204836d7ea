"""Curves over the guidance scale as clients see them."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.rounds.schemas import GuidanceCurve


class CheckpointCurve(GuidanceCurve):
    """The curve of the base, or of a round's winner."""

    round_index: int = Field(description="0 is the base.")
    checkpoint_id: str
    trial_index: int | None = Field(description="Null for the base.")
    alpha: float | None
    beta: float | None
    kimg: float


class GuidanceCurves(BaseModel):
    """FID, precision, recall and perhaps inception score over the guidance scale: of the base, and of every winner."""

    scale_is: str = Field(
        description="What the numbers mean, which is not the same for a diffusion model and a VAR.",
        examples=["w in D_guide + w (D - D_guide); 1 asks for no guidance, and the guide is not evaluated."],
    )
    unguided_scale: float = Field(description="The scale that asks for no guidance.")
    sampler_scale: float = Field(description="sampler.guidance_scale of the job.")
    rank_by: Literal["sampler_scale", "best_scale"] = Field(description="Which of the FIDs rank checkpoints.")
    num_samples: int = Field(description="Images behind every point: of the protocol that the job ranks with.")
    curves: list[CheckpointCurve] = Field(description="In order of rounds, as far as they are completed.")

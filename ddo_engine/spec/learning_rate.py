"""How the learning rate goes over a run: one settings class per schedule.

The peak (``learning_rate``), the warm-up and the final share of the peak are settings of the training run: each
schedule reads those that it knows, and holds what it alone needs.
"""

from typing import Annotated, Literal

from pydantic import Field

from ddo_engine.spec.base import Settings


class CosineSchedule(Settings):
    """Linear warm-up from 0, then half a cosine down to the final factor. Counts the images after a step."""

    kind: Literal["cosine"] = "cosine"


class EDMSchedule(Settings):
    """Linear warm-up from 0, then constant, as in EDM. Counts the images before a step: the first has rate 0."""

    kind: Literal["edm"] = "edm"


class EDM2Schedule(Settings):
    """Linear warm-up from 0, then inverse square-root decay (arXiv:2312.02696, eq. 67). Counts like 'edm'."""

    kind: Literal["edm2"] = "edm2"
    decay_reference_batches: float = Field(
        ge=0,
        le=1e9,
        description="Steps of the peak: after n times as many the rate is 1 / sqrt(n) of it. 0: no decay. 2000 in the "
        "paper's EDM2 runs; 35000 or 70000 in EDM2's pretraining.",
    )


class VARSchedule(Settings):
    """VAR's: linear warm-up, then down to the final factor at the last step. Counts the steps before a step."""

    kind: Literal["var"] = "var"
    decay: Literal["lin0", "cos"] = Field(
        default="lin0",
        description="After warm-up: 'lin0' stays at the peak for 5 % of the steps left and then falls linearly, 'cos' "
        "is half a cosine.",
    )
    initial_factor: float = Field(
        default=0.005, ge=0, le=1, description="Share of the peak that the warm-up starts from."
    )


SCHEDULE_KINDS = ("cosine", "edm", "edm2", "var")
LearningRateSchedule = Annotated[CosineSchedule | EDMSchedule | EDM2Schedule | VARSchedule, Field(discriminator="kind")]

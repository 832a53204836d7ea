"""Jobs as clients see them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from ddo_engine.spec import Grid, TrainingSettings
from service.statuses import JobStatus, TerminationReason, UnitKind

# validated when it was stored; the OpenAPI document shows it as the JobSpec that it is
StoredSpec = dict[str, Any]
BaselineKind = Literal["mle", "cca", "guidance", "autoguidance", "discriminator_guidance"]


class JobError(BaseModel):
    """Why a job failed, and what to do."""

    code: str = Field(examples=["invalid_dataset"])
    message: str
    param: str | None = Field(default=None, description="The field of the job to blame, where there is one.")


class RunningUnit(BaseModel):
    """What a worker is doing now."""

    unit_id: str
    kind: UnitKind
    round_index: int | None
    position: int = Field(description="A trial's index, a shard's number, …")
    baseline_index: int | None = Field(default=None, description="The baseline that it serves; null: the rounds.")
    phase: str | None = Field(default=None, description="What the unit itself says it is doing.")
    done: int | None = None
    total: int | None = None
    unit: str | None = Field(default=None, description="What is counted: images, steps, …")
    images_per_second: float | None = None


class Progress(BaseModel):
    """How far a job is. A job that stops improving ends before all planned units."""

    fraction: float = Field(ge=0, le=1, description="Share of the planned network evaluations that are done.")
    units_done: int
    units_planned: int
    running: list[RunningUnit]


class ParentCheckpoint(BaseModel):
    """The checkpoint of another job that a job starts from."""

    checkpoint_id: str
    job_id: str
    round_index: int


class JobSummary(BaseModel):
    """A job in a list. FIDs are under the confirm protocol if the job has one, else under the search protocol."""

    id: str = Field(examples=["job_0198f3a1b2c3d4e5f60718293a"])
    name: str | None
    preset: str | None
    parent: ParentCheckpoint | None = Field(description="Where it branched off; null: its base came as a file.")
    status: JobStatus
    termination_reason: TerminationReason | None
    termination_message: str | None = Field(
        description="Why a job that succeeded came to its end, in a sentence; why one failed is in `error`."
    )
    error: JobError | None
    base_fid: float | None = Field(description="FID of the base checkpoint; null until it was measured.")
    best_fid: float | None = Field(description="Lowest FID so far, the base's included.")
    best_checkpoint_id: str | None
    improvement_percent: float | None = Field(description="How far best_fid lies below base_fid.", examples=[42.5])
    rounds_completed: int = Field(description="Finished rounds, not counting round 0.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobLinks(BaseModel):
    """Where more about a job is read."""

    rounds: str = Field(examples=["/jobs/job_0198f3a1b2c3d4e5f60718293a/rounds"])
    guidance_curve: str
    baselines: str
    checkpoints: str
    best: str
    events: str


class JobDetail(JobSummary):
    """A job with everything that it was told, and how far it is."""

    spec: StoredSpec = Field(description="The job as accepted, preset filled in.")
    progress: Progress
    links: JobLinks


class StorageEstimate(BaseModel):
    """Upper bounds; the reference sets, whose image size is known only once the dataset was read, come on top."""

    checkpoints: int = Field(description="Checkpoints at most: one for each evaluation, and the base.")
    checkpoint_bytes: int
    snapshot_bytes: int = Field(description="Averages of `training.ema_snapshot_stds`: each at every evaluation.")
    state_bytes: int = Field(description="Newest training state of every trial.")
    input_bytes: int = Field(description="Base checkpoint, dataset and feature network.")
    total_bytes: int


class PhasePlan(BaseModel):
    """Rounds in a row that have the same settings, and what all of them together would cost."""

    first_round: int
    last_round: int
    training: TrainingSettings
    grid: Grid
    units: dict[UnitKind, int]
    trained_images: int
    generated_images: int
    network_evaluations: int


class BaselinePlan(BaseModel):
    """What one baseline would cost."""

    baseline_index: int
    kind: BaselineKind
    units: dict[UnitKind, int]
    trained_images: int = Field(description="Real images that its training sees.")
    generated_images: int
    network_evaluations: int


class JobPlan(BaseModel):
    """What the job would do if no round stopped it early. Nothing was created."""

    spec: StoredSpec = Field(description="The job as it would be accepted, preset filled in.")
    units: dict[UnitKind, int] = Field(description="Units of work by kind.")
    trials: int
    trained_images: int = Field(
        description="Real images that all trials of the rounds train on, without probes; as many fakes come."
    )
    generated_images: int = Field(description="Sampled images: reference sets and evaluations, baselines' too.")
    network_evaluations: int = Field(
        description="Forward passes on one image, a training step counted as 3 for the target and 1 for the reference; "
        "the probes of beta 'auto' are part of it."
    )
    storage: StorageEstimate
    phases: list[PhasePlan] = Field(
        description="The rounds, cut where `round_overrides` change something. Validation, round 0 and the baselines "
        "come on top."
    )
    baselines: list[BaselinePlan]

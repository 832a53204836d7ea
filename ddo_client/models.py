"""What the service answers, as frozen dataclasses. Fields that they do not know are ignored, so newer services fit."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

JOB_ENDED = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class JobError:
    """Why a job failed, and what to do."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True)
class RunningUnit:
    """What a worker is doing now."""

    unit_id: str
    kind: str
    round_index: int | None
    position: int
    phase: str | None
    done: int | None
    total: int | None
    unit: str | None
    images_per_second: float | None
    baseline_index: int | None = None


@dataclass(frozen=True)
class Progress:
    """How far a job is; ``fraction`` in [0, 1]."""

    fraction: float
    units_done: int
    units_planned: int
    running: tuple[RunningUnit, ...]


@dataclass(frozen=True)
class ParentCheckpoint:
    """The checkpoint of another job that a job starts from."""

    checkpoint_id: str
    job_id: str
    round_index: int


@dataclass(frozen=True)
class JobSummary:
    """A job in a list."""

    id: str
    name: str | None
    preset: str | None
    status: str
    termination_reason: str | None
    error: JobError | None
    base_fid: float | None
    best_fid: float | None
    best_checkpoint_id: str | None
    improvement_percent: float | None
    rounds_completed: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    termination_message: str | None = field(default=None, kw_only=True)
    parent: ParentCheckpoint | None = field(default=None, kw_only=True)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in JOB_ENDED


@dataclass(frozen=True)
class Job(JobSummary):
    """A job with its settings and progress."""

    spec: dict[str, Any]
    progress: Progress


@dataclass(frozen=True)
class StorageEstimate:
    """Upper bounds in bytes."""

    checkpoints: int
    checkpoint_bytes: int
    state_bytes: int
    input_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class PhasePlan:
    """Rounds in a row that have the same settings, and their cost."""

    first_round: int
    last_round: int
    training: dict[str, Any]
    grid: dict[str, Any]
    units: dict[str, int]
    trained_images: int
    generated_images: int
    network_evaluations: int


@dataclass(frozen=True)
class BaselinePlan:
    """What one baseline would cost."""

    baseline_index: int
    kind: str
    units: dict[str, int]
    trained_images: int
    generated_images: int
    network_evaluations: int


@dataclass(frozen=True)
class Plan:
    """What a job would do; nothing was created."""

    spec: dict[str, Any]
    units: dict[str, int]
    trials: int
    trained_images: int
    generated_images: int
    network_evaluations: int
    storage: StorageEstimate
    phases: tuple[PhasePlan, ...] = ()
    baselines: tuple[BaselinePlan, ...] = ()


@dataclass(frozen=True)
class Measured:
    """Numbers of one evaluation; compare only those with the same fingerprint. ``samples_id`` can be downloaded."""

    evaluation_id: str
    checkpoint_id: str | None
    kimg: float
    fid: float
    precision: float | None
    recall: float | None
    num_samples: int | None
    fingerprint: str
    inception_score: float | None = None
    guidance_scale: float | None = field(default=None, kw_only=True)
    samples_id: str | None = field(default=None, kw_only=True)
    metrics: dict[str, float] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class GuidanceCurve:
    """One checkpoint at all guidance scales of its job, in order; ``best`` has the lowest FID."""

    points: tuple[Measured, ...]
    best: Measured | None


@dataclass(frozen=True)
class CheckpointCurve(GuidanceCurve):
    """The curve of the base (round 0), or of a round's winner."""

    round_index: int
    checkpoint_id: str
    trial_index: int | None
    alpha: float | None
    beta: float | None
    kimg: float


@dataclass(frozen=True)
class GuidanceCurves:
    """The curves of the base and of every winner; ``scale_is`` says what their scale means."""

    scale_is: str
    unguided_scale: float
    sampler_scale: float
    rank_by: str
    num_samples: int
    curves: tuple[CheckpointCurve, ...]


@dataclass(frozen=True)
class TrialError:
    """Why a trial failed."""

    code: str | None
    message: str | None


@dataclass(frozen=True)
class TrialWarning:
    """Something about a trial that deserves a look."""

    code: str
    message: str
    step: int
    kimg: float


@dataclass(frozen=True)
class Trial:
    """One cell of a round's grid. A beta of ``"auto"`` becomes ``found_beta``."""

    trial_index: int
    alpha: float
    beta: float | str
    status: str
    unit_id: str
    attempt: int
    best_fid: float | None
    best_kimg: float | None
    best: Measured | None
    confirmed: Measured | None
    progress: dict[str, Any] | None
    error: TrialError | None
    found_beta: float | None = None
    warnings: tuple[TrialWarning, ...] = ()
    curve: GuidanceCurve | None = None


@dataclass(frozen=True)
class Winner:
    """The best checkpoint of a round."""

    checkpoint_id: str
    trial_index: int | None
    alpha: float | None
    beta: float | None
    kimg: float
    measured: Measured | None
    curve: GuidanceCurve | None = None


@dataclass(frozen=True)
class RoundSettings:
    """What the trials of a round were told."""

    training: dict[str, Any]
    grid: dict[str, Any]


@dataclass(frozen=True)
class Round:
    """One round; round 0 is the base checkpoint."""

    round_index: int
    status: str
    reference_checkpoint_id: str | None
    reference_fid: float | None
    best_fid: float | None
    winner: Winner | None
    trials: tuple[Trial, ...]
    created_at: datetime
    finished_at: datetime | None
    settings: RoundSettings | None = None


@dataclass(frozen=True)
class ProtocolDifference:
    """A field in which an evaluation's protocol differs from that of the base."""

    field: str
    base: Any
    baseline: Any


@dataclass(frozen=True)
class BaselineEvaluation(Measured):
    """Numbers of one evaluation of a baseline; comparable with the base's where nothing ``differs``."""

    scale: float | None = None
    differs: tuple[ProtocolDifference, ...] | None = None


@dataclass(frozen=True)
class Baseline:
    """What DDO is compared with: it never wins, and no round starts from it."""

    baseline_index: int
    kind: str
    settings: dict[str, Any]
    status: str
    error: TrialError | None
    warnings: tuple[TrialWarning, ...]
    best: BaselineEvaluation | None
    confirmed: BaselineEvaluation | None
    checkpoint_id: str | None
    evaluations: tuple[BaselineEvaluation, ...]
    discriminator_id: str | None = None


@dataclass(frozen=True)
class TrainingPoint:
    """Training diagnostics at one step."""

    step: int
    kimg: float
    values: dict[str, float]


@dataclass(frozen=True)
class TrialMetrics:
    """A trial's curves, in order of kimg."""

    training: tuple[TrainingPoint, ...]
    evaluations: tuple[Measured, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be downloaded."""

    id: str
    job_id: str
    round_index: int
    trial_index: int | None
    alpha: float | None
    beta: float | None
    kimg: float
    rank: int | None
    fid: float | None
    evaluations: tuple[Measured, ...]
    lineage: tuple[str, ...]
    sha256: str
    size_bytes: int
    created_at: datetime
    baseline_index: int | None = None


@dataclass(frozen=True)
class Compared:
    """One checkpoint of a comparison."""

    rank: int
    value: float
    checkpoint_id: str
    job_id: str
    round_index: int
    trial_index: int | None
    baseline_index: int | None
    alpha: float | None
    beta: float | None
    kimg: float
    evaluation: Measured


@dataclass(frozen=True)
class Comparison:
    """Checkpoints ranked by numbers of one protocol, best first."""

    metric: str
    lower_is_better: bool
    fingerprint: str
    protocol: dict[str, Any]
    data: tuple[Compared, ...]


@dataclass(frozen=True)
class Snapshot:
    """An average of a trial's weights by power function, for ``python -m ddo_engine reconstruct``."""

    id: str
    name: str
    ema_std: float
    kimg: float
    sha256: str
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True)
class SignedDownload:
    """A URL that needs no key until it expires."""

    url: str
    expires_at: datetime
    sha256: str
    size_bytes: int
    filename: str


@dataclass(frozen=True)
class Event:
    """Something that happened to a job."""

    id: int
    type: str
    unit_id: str | None
    data: dict[str, Any]
    created_at: datetime

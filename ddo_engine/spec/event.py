"""What a unit of work reports: one JSON object per line on the engine's standard output."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ddo_engine.spec.base import FileRef, Settings, Sha256


class FileRole(StrEnum):
    """What a file that a unit wrote is for."""

    CHECKPOINT = "checkpoint"
    STATE = "state"
    REFERENCE_SET = "reference_set"
    SNAPSHOT = "snapshot"
    DISCRIMINATOR = "discriminator"
    SAMPLES = "samples"


class Started(Settings):
    """First event: what runs, on what, and from where."""

    type: Literal["started"] = "started"
    command: str
    device: str
    torch_version: str
    resumed_from_kimg: float | None = None


class Progress(Settings):
    """How far the unit is; ``done`` of ``total`` in ``unit``s (images, steps, …)."""

    type: Literal["progress"] = "progress"
    phase: str
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    unit: str = "images"
    images_per_second: float | None = None


class Metric(Settings):
    """Training diagnostics averaged since the last such event."""

    type: Literal["metric"] = "metric"
    step: int = Field(ge=0)
    kimg: float = Field(ge=0)
    values: dict[str, float]


class Performance(Settings):
    """How fast and how large training was since the last such event: numbers of the machine, not of the run."""

    type: Literal["performance"] = "performance"
    step: int = Field(ge=0)
    kimg: float = Field(ge=0)
    images_per_second: float = Field(ge=0, description="Real images, while training: evaluations do not count.")
    peak_memory_bytes: int = Field(ge=0)
    memory: Literal["device", "process"] = Field(
        description="'device': allocated on the GPU since the last such event; 'process': resident, since its start."
    )


class BetaFound(Settings):
    """What the probe found for beta 'auto', before the trial started from the base."""

    type: Literal["beta"] = "beta"
    beta: float = Field(gt=0, description="1 / ratio_std, which the trial trains with.")
    ratio_std: float = Field(gt=0, description="Of the log-likelihood ratio, in nats, at the end of the probe.")
    num_steps: int = Field(ge=1, description="Optimizer steps of the probe.")


class TrainingWarning(Settings):
    """Something about a trial that deserves a look, said once per code and trial."""

    type: Literal["warning"] = "warning"
    code: Literal["discriminator_saturated", "discriminator_idle", "loss_on_data_doubled"]
    message: str
    step: int = Field(ge=0)
    kimg: float = Field(ge=0)


class Evaluated(Settings):
    """Numbers of one evaluation. Only numbers with the same ``fingerprint`` may be ranked together."""

    type: Literal["evaluation"] = "evaluation"
    kimg: float = Field(ge=0)
    fingerprint: Sha256
    protocol: dict[str, Any] = Field(description="What the fingerprint is the hash of.")
    metrics: dict[str, float]


class FileWritten(Settings):
    """A finished file: complete, synced to disk, never changed afterwards."""

    type: Literal["file"] = "file"
    role: FileRole
    path: str
    sha256: Sha256
    size_bytes: int = Field(ge=0)
    kimg: float | None = None
    info: dict[str, Any] = Field(default_factory=dict, description="A checkpoint's manifest, a set's seeds, …")


class CheckpointInfo(Settings):
    """What a checkpoint is, read from its manifest and tensors."""

    family: str
    network: str
    num_parameters: int
    img_resolution: int
    img_channels: int
    label_dim: int
    space: Literal["pixels", "latents", "tokens"] = Field(
        default="pixels", description="What the model works on; img_resolution and img_channels count latents' own."
    )
    decoded_resolution: int | None = Field(default=None, description="Of the images that latents decode to, if known.")
    decoded_channels: int | None = None


class DatasetInfo(Settings):
    """What a dataset is. Latents have the channels and the resolution of their means."""

    kind: Literal["images", "latents"] = "images"
    num_images: int
    img_resolution: int
    img_channels: int
    class_counts: tuple[int, ...] = Field(default=(), description="Images per class; empty without labels.")


class Report(Settings):
    """Result of ``validate``."""

    type: Literal["report"] = "report"
    checkpoint: CheckpointInfo
    dataset: DatasetInfo
    converted: dict[Literal["checkpoint", "autoencoder", "guide", "baseline_guide", "feature_network"], FileRef] = (
        Field(
            default_factory=dict,
            description="Files in the work folder that take the place of inputs in their authors' formats.",
        )
    )


class Failed(Settings):
    """Last event of a unit that ends in an error (``ddo_engine.errors``)."""

    type: Literal["error"] = "error"
    code: str
    message: str
    param: str | None = None


class Finished(Settings):
    """Last event of a unit that did all it was told."""

    type: Literal["finished"] = "finished"


_AnyEvent = (
    Started
    | Progress
    | Metric
    | Performance
    | BetaFound
    | TrainingWarning
    | Evaluated
    | FileWritten
    | Report
    | Failed
    | Finished
)
EngineEvent = Annotated[_AnyEvent, Field(discriminator="type")]
ENGINE_EVENT: TypeAdapter[_AnyEvent] = TypeAdapter(EngineEvent)

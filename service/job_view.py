"""A job as the planner sees it, and what the planner can ask for. Frozen, and free of sessions.

``service.lifecycle`` builds the view from rows and applies the actions; ``service.planner`` maps one to the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddo_engine.spec import (
    CheckpointInfo,
    DatasetInfo,
    DDOObjective,
    FileRef,
    JobSpec,
    Settings,
    UnitSpec,
)
from service.statuses import JobStatus, RoundStatus, TerminationReason, UnitKind, UnitStatus


class JobInputs(Settings):
    """The checked inputs of a job: objects of our store, and what they are. Stored as ``jobs.inputs``."""

    checkpoint: FileRef
    autoencoder: FileRef | None = None
    guide: FileRef | None = None
    baseline_guide: FileRef | None = None
    dataset: FileRef
    feature_network: FileRef
    reference_statistics: FileRef | None = None
    checkpoint_info: CheckpointInfo
    dataset_info: DatasetInfo


@dataclass(frozen=True)
class UnitView:
    """One unit of work, of a baseline if it has a ``baseline_index``.

    ``error`` is set once it failed, ``artifact`` once it stored its reference shard or its discriminator.
    """

    id: str
    kind: UnitKind
    round_index: int | None
    position: int
    status: UnitStatus
    cancel_requested: bool = False
    error: Mapping[str, Any] | None = None
    artifact: FileRef | None = None
    baseline_index: int | None = None


@dataclass(frozen=True)
class RoundView:
    """One round; round 0 has no reference, its winner is the base."""

    index: int
    status: RoundStatus
    reference_id: str | None = None
    winner_id: str | None = None


@dataclass(frozen=True)
class CheckpointView:
    """A checkpoint that exists. ``unit_id`` is None for the base."""

    id: str
    unit_id: str | None
    file: FileRef


@dataclass(frozen=True)
class EvaluationView:
    """One FID of one checkpoint, measured by ``unit_id`` under the protocol that ``fingerprint`` names.

    ``num_samples``, ``seed`` and ``guidance_scale`` are the protocol's.
    """

    unit_id: str
    checkpoint_id: str
    kimg: float
    fingerprint: str
    fid: float | None
    num_samples: int | None = None
    seed: int | None = None
    guidance_scale: float | None = None


@dataclass(frozen=True)
class JobView:
    """Everything about a job that decides what happens next. ``parent``: the checkpoint of ours that it starts from."""

    id: str
    status: JobStatus
    spec: JobSpec
    parent: FileRef | None = None
    inputs: JobInputs | None = None
    rounds: tuple[RoundView, ...] = ()
    units: tuple[UnitView, ...] = ()
    checkpoints: tuple[CheckpointView, ...] = ()
    evaluations: tuple[EvaluationView, ...] = ()
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the evaluations, by fingerprint

    @property
    def base(self) -> CheckpointView:
        """The base checkpoint. Only once round 0 exists."""
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.unit_id is None)

    def checkpoint(self, checkpoint_id: str) -> CheckpointView:
        """Return one checkpoint of this job."""
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.id == checkpoint_id)

    def units_of(self, kind: UnitKind, round_index: int | None) -> tuple[UnitView, ...]:
        """Return the units of one kind in one round, in order of position."""
        found = (unit for unit in self.units if unit.kind is kind and unit.round_index == round_index)
        return tuple(sorted(found, key=lambda unit: unit.position))

    def units_of_baseline(self, kind: UnitKind, baseline_index: int) -> tuple[UnitView, ...]:
        """Return the units of one kind that a baseline has, in order of position."""
        found = (unit for unit in self.units if unit.kind is kind and unit.baseline_index == baseline_index)
        return tuple(sorted(found, key=lambda unit: unit.position))

    @property
    def checked_inputs(self) -> JobInputs:
        """The inputs. Only once they are validated."""
        assert self.inputs is not None
        return self.inputs


@dataclass(frozen=True)
class CreateRound:
    """Add a pending round. Round 0 comes with the base's checkpoint row."""

    index: int
    reference_id: str | None = None


@dataclass(frozen=True)
class CreateUnit:
    """Queue a unit. A trial also names its cell of the grid, a baseline's unit its place in the job's baselines."""

    kind: UnitKind
    round_index: int | None
    position: int
    spec: UnitSpec
    cell: DDOObjective | None = None
    baseline_index: int | None = None


@dataclass(frozen=True)
class MoveRound:
    """Move a round on."""

    index: int
    target: RoundStatus
    winner_id: str | None = None


@dataclass(frozen=True)
class MoveJob:
    """Move the job on; an end says why, and what is best."""

    target: JobStatus
    reason: TerminationReason | None = None
    message: str | None = None
    error: Mapping[str, Any] | None = None
    best_checkpoint_id: str | None = None


@dataclass(frozen=True)
class CancelUnit:
    """Cancel a queued unit, or ask the worker of a running one to stop."""

    unit_id: str


Action = CreateRound | CreateUnit | MoveRound | MoveJob | CancelUnit

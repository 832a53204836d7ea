"""Statuses, and the one table of allowed moves between them."""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """Where a job stands."""

    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RoundStatus(StrEnum):
    """Where a round of a job stands."""

    PENDING = "pending"
    GENERATING = "generating"
    TRAINING = "training"
    SELECTING = "selecting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class UnitStatus(StrEnum):
    """Where a unit of work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class UnitKind(StrEnum):
    """What a unit of work does: ``baseline`` measures the base, ``baseline_…`` what a job compares DDO with."""

    VALIDATE = "validate"
    BASELINE = "baseline"
    REFERENCE = "reference"
    TRIAL = "trial"
    CONFIRM = "confirm"
    BASELINE_TRIAL = "baseline_trial"
    BASELINE_EVALUATION = "baseline_evaluation"
    BASELINE_DISCRIMINATOR = "baseline_discriminator"


class TerminationReason(StrEnum):
    """Why a job ended; apart from its status."""

    COMPLETED = "completed"
    NO_IMPROVEMENT = "no_improvement"
    CANCELLED_BY_USER = "cancelled_by_user"
    INVALID_DATASET = "invalid_dataset"
    INVALID_CHECKPOINT = "invalid_checkpoint"
    INVALID_FEATURE_NETWORK = "invalid_feature_network"
    INCOMPATIBLE_INPUTS = "incompatible_inputs"
    INVALID_SPEC = "invalid_spec"
    DIVERGED = "diverged"
    SATURATED = "saturated"
    OUT_OF_MEMORY = "out_of_memory"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    ENGINE_ERROR = "engine_error"


Status = JobStatus | RoundStatus | UnitStatus

# One table per kind: members of different StrEnums with the same text are equal, and would share a key.
TRANSITIONS: Mapping[type[Status], Mapping[Status, frozenset[Status]]] = {
    JobStatus: {
        JobStatus.VALIDATING: frozenset(
            {JobStatus.QUEUED, JobStatus.FAILED, JobStatus.CANCELLING, JobStatus.CANCELLED}
        ),
        JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLING, JobStatus.CANCELLED}),
        JobStatus.RUNNING: frozenset(
            {JobStatus.PAUSED, JobStatus.CANCELLING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
        ),
        JobStatus.PAUSED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.CANCELLED}),
        JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    },
    RoundStatus: {
        RoundStatus.PENDING: frozenset(
            {RoundStatus.GENERATING, RoundStatus.SELECTING, RoundStatus.FAILED, RoundStatus.CANCELLED}
        ),
        RoundStatus.GENERATING: frozenset({RoundStatus.TRAINING, RoundStatus.FAILED, RoundStatus.CANCELLED}),
        RoundStatus.TRAINING: frozenset({RoundStatus.SELECTING, RoundStatus.FAILED, RoundStatus.CANCELLED}),
        RoundStatus.SELECTING: frozenset({RoundStatus.COMPLETED, RoundStatus.FAILED, RoundStatus.CANCELLED}),
    },
    UnitStatus: {
        UnitStatus.QUEUED: frozenset({UnitStatus.RUNNING, UnitStatus.CANCELLED}),
        # back to queued: a lost worker, a preemption or a crash that may be retried
        UnitStatus.RUNNING: frozenset(
            {UnitStatus.QUEUED, UnitStatus.SUCCEEDED, UnitStatus.FAILED, UnitStatus.CANCELLED}
        ),
    },
}

JOB_ENDED = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
UNIT_ENDED = frozenset({UnitStatus.SUCCEEDED, UnitStatus.FAILED, UnitStatus.CANCELLED})


def sources_of(target: Status) -> frozenset[Status]:
    """Return the statuses of the same kind from which ``target`` may be reached."""
    return frozenset(source for source, targets in TRANSITIONS[type(target)].items() if target in targets)

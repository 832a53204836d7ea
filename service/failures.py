"""From the code that a unit failed with to why its job ended and what its owner reads. The only such mapping."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from service.statuses import TerminationReason

ATTEMPTS_EXHAUSTED = "attempts_exhausted"

# Engine codes (ddo_engine.errors) that no further attempt can change: these fail a unit at once.
FINAL_CODES: Mapping[str, TerminationReason] = MappingProxyType(
    {
        "invalid_spec": TerminationReason.INVALID_SPEC,
        "invalid_dataset": TerminationReason.INVALID_DATASET,
        "invalid_checkpoint": TerminationReason.INVALID_CHECKPOINT,
        "invalid_feature_network": TerminationReason.INVALID_FEATURE_NETWORK,
        "incompatible_inputs": TerminationReason.INCOMPATIBLE_INPUTS,
        "diverged": TerminationReason.DIVERGED,
        "saturated": TerminationReason.SATURATED,
        "out_of_memory": TerminationReason.OUT_OF_MEMORY,
    }
)

# The engine's own messages say what to do; these ends come without one.
_ADVICE: Mapping[TerminationReason, str] = MappingProxyType(
    {
        TerminationReason.ATTEMPTS_EXHAUSTED: "The job's events say more. Submit it again once the cause is gone.",
        TerminationReason.ENGINE_ERROR: "This is a defect of the service; its log says more.",
    }
)

# Fields of a unit's spec, in the words of the job that its owner wrote.
_JOB_PARAMS: Mapping[str, str] = MappingProxyType(
    {"checkpoint": "base_checkpoint", "dataset": "dataset.uri", "baseline_guide": "baselines"}
)


def reason_for(code: str | None) -> TerminationReason:
    """Return why a job ends whose unit failed with ``code``."""
    if code == ATTEMPTS_EXHAUSTED:
        return TerminationReason.ATTEMPTS_EXHAUSTED
    return FINAL_CODES.get(code or "", TerminationReason.ENGINE_ERROR)


def job_error(reason: TerminationReason, unit_error: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the ``{code, message, param}`` of a job that ends because a unit failed.

    Args:
        where: The unit in words: ``round 2, trial 3``.
    """
    said = str(unit_error.get("message") or "no message").rstrip(". ")
    param = unit_error.get("param")
    return {
        "code": str(reason),
        "message": f"{where}: {said}. {_ADVICE.get(reason, '')}".strip(),
        "param": _JOB_PARAMS.get(param, param) if isinstance(param, str) else None,
    }

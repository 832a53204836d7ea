"""How an attempt ended, in the terms of ``service.leases``, and the one place that writes it."""

import errno
import signal
import time
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from ddo_engine.spec import Failed, Report
from service import leases
from service.failures import FINAL_CODES
from service.job_view import JobInputs
from service.leases import Claim
from service.reports import drop_state, finish_validation
from service.sources import InputUnavailable
from service.storage import ObjectDiffers, StorageError
from service.transitions import LeaseLostError
from worker.cache import DamagedFileError
from worker.context import WorkerContext
from worker.inputs import InputRefusedError
from worker.sink import ProtocolError
from worker.task import AbandonedError

# Where the engine's exit status alone says what no further attempt can change (ddo_engine.errors).
_FINAL_STATUSES = {64: "invalid_spec", 71: "out_of_memory"}

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        how: ``finished``; ``failed`` for good; ``crashed``, to be tried again; ``lost``, the same for a reason outside
            the unit; ``released`` because the worker stops; ``cancelled``; ``gone``: it is another's by now.
        error: ``{code, message, param, log_tail}`` of the first two kinds of failure and of a loss.
        drop_state: The training state is what it failed on.
        report: Of a validation.
        inputs: Of a validation.
    """

    how: Literal["finished", "failed", "crashed", "lost", "released", "cancelled", "gone"]
    error: dict[str, Any] | None = None
    drop_state: bool = False
    report: Report | None = None
    inputs: JobInputs | None = None


def engine_ending(  # noqa: PLR0911  (one case after another reads best)
    status: int, *, finished: bool, failed: Failed | None, asked_to_stop: bool, stalled: bool, log_tail: str
) -> Ending:
    """Judge an engine that has ended by itself or on request.

    Args:
        status: Its exit status; negative: the signal that killed it.
        finished: It said that it did all it was told.
        failed: The error that it said, if it did.
        asked_to_stop: The worker had sent SIGTERM.
        stalled: The worker killed it because it had fallen silent.
        log_tail: The end of its standard error.
    """
    if failed is not None and failed.param == "state":
        return Ending("crashed", _error(failed.code, failed.message, log_tail), drop_state=True)
    if failed is not None and failed.code in FINAL_CODES:
        return Ending("failed", _error(failed.code, failed.message, log_tail, failed.param))
    if finished and status == 0:
        return Ending("finished")
    if asked_to_stop:
        return Ending("released")
    if failed is not None:
        return Ending("crashed", _error("engine_error", failed.message, log_tail, failed.param))
    if stalled:
        return Ending("crashed", _error("engine_stalled", "the engine fell silent and was ended", log_tail))
    if status < 0:
        name = signal.Signals(-status).name
        return Ending("crashed", _error("engine_killed", f"the engine was ended by {name}", log_tail))
    if status in _FINAL_STATUSES:
        return Ending("failed", _error(_FINAL_STATUSES[status], f"the engine ended with status {status}", log_tail))
    message = f"the engine ended with status {status} and did not say why"
    return Ending("crashed", _error("engine_error", message, log_tail))


def task_ending(error: BaseException) -> Ending:
    """Judge an attempt whose transfers failed."""
    match error:
        case LeaseLostError() | AbandonedError():
            return Ending("gone")
        case InputRefusedError():
            return Ending("failed", error.error)
        case ProtocolError() | ObjectDiffers():
            return Ending("crashed", _error("engine_error", str(error)))
        case StorageError() | InputUnavailable() | DamagedFileError():
            return Ending("lost", _error("storage_unavailable", str(error)))
        case OSError(errno=errno.ENOSPC):
            return Ending("lost", _error("disk_full", "the worker's disk is full"))
        case _:
            _log.error("attempt_failed_unexpectedly", exc_info=error)
            return Ending("crashed", _error("worker_error", f"{type(error).__name__}: {error}"))


def write_ending(context: WorkerContext, claim: Claim, ending: Ending) -> None:
    """Write how an attempt ended, and ring for what follows from it.

    If the database stays away for longer than a lease, the reconciler finds the lease expired and goes on from there.
    """
    if ending.how == "gone":
        return
    give_up_at = time.monotonic() + context.settings.lease_seconds
    try:
        ring = context.transact(
            lambda session: _write(session, context, claim, ending), lambda: time.monotonic() > give_up_at
        )
    except LeaseLostError:
        _log.info("ending_came_too_late", how=ending.how)
        return
    except OperationalError as error:
        _log.warning("ending_not_written", how=ending.how, error=str(error))
        return
    context.doorbell.ring(ring)


def _write(  # noqa: PLR0911  (as above)
    session: Session, context: WorkerContext, claim: Claim, ending: Ending
) -> list[str]:
    max_crashes = context.settings.max_crashes
    error = ending.error or {}
    if ending.drop_state:
        drop_state(session, claim, str(error.get("message")))
    match ending.how:
        case "finished" if ending.report is not None and ending.inputs is not None:
            return finish_validation(session, claim, ending.report, ending.inputs)
        case "finished":
            return leases.finish(session, claim)
        case "failed":
            return leases.fail(session, claim, error)
        case "crashed":
            return leases.crash(session, claim, error, max_crashes=max_crashes)
        case "lost":
            return leases.lose(session, claim, error, max_crashes=max_crashes)
        case "cancelled":
            return leases.stop(session, claim)
        case _:
            return leases.release(session, claim)


def _error(code: str, message: str, log_tail: str = "", param: str | None = None) -> dict[str, Any]:
    told = {"code": code, "message": message, "param": param, "log_tail": log_tail}
    # Postgres stores no NUL, and an ending that cannot be written would be tried for ever.
    return {name: text and text.replace("\0", "\\0") for name, text in told.items()}

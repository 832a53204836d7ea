"""Waiting for a database or a store that cannot be reached right now."""

from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter

from service.storage import ObjectDiffers, ObjectNotFound, StorageError

T = TypeVar("T")

_STORE_PATIENCE_SECONDS = 120.0

_log = structlog.get_logger(__name__)


def until_reachable(call: Callable[[], T], give_up: Callable[[], bool]) -> T:
    """Call until the database answers.

    Raises:
        sqlalchemy.exc.OperationalError: ``give_up`` said so.
    """
    retrying = Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, OperationalError | InterfaceError)),
        stop=lambda _: give_up(),
        wait=wait_exponential_jitter(initial=0.1, max=2.0),
        before_sleep=_tell("database_unreachable"),
        reraise=True,
    )
    return retrying(call)


def until_stored(call: Callable[[], T], give_up: Callable[[], bool]) -> T:
    """Call until the object store has done it; two minutes at most.

    Raises:
        StorageError: It did not; or at once, if trying again cannot help.
    """
    patience = stop_after_delay(_STORE_PATIENCE_SECONDS)
    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=lambda state: give_up() or patience(state),
        wait=wait_exponential_jitter(initial=0.5, max=10.0),
        before_sleep=_tell("store_unreachable"),
        reraise=True,
    )
    return retrying(call)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, StorageError) and not isinstance(error, ObjectDiffers | ObjectNotFound)


def _tell(event: str) -> Callable[[RetryCallState], None]:
    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        _log.warning(event, attempt=state.attempt_number, error=str(error))

    return tell

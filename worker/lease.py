"""Keeps a claim alive, and knows by the monotonic clock how long it certainly still holds."""

import contextvars
import threading
import time
from functools import partial
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy.exc import SQLAlchemyError

from service.leases import Claim, heartbeat, shall_give_way
from service.transitions import LeaseLostError
from worker.context import WorkerContext

_RETRY_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class Lease:
    """Renews a claim in a thread until the ``with`` block ends.

    The database's clock decides when a lease is over. Counting from before each request was sent, by a clock that
    nobody sets, can only err on the early side.
    """

    def __init__(self, context: WorkerContext, claim: Claim, claimed_at: float) -> None:
        """Take over a claim.

        Args:
            context: The worker's.
            claim: What to renew.
            claimed_at: ``time.monotonic()`` before the claim was requested.
        """
        self._context = context
        self._claim = claim
        self._renewed_at = claimed_at
        self._lost = threading.Event()
        self._cancel_requested = threading.Event()
        self._gives_way = threading.Event()
        self._ended = threading.Event()
        run = partial(contextvars.copy_context().run, self._renew)
        self._thread = threading.Thread(target=run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    @property
    def seconds_left(self) -> float:
        """How long nobody else can have claimed the unit, at least."""
        return self._renewed_at + self._context.settings.lease_seconds - time.monotonic()

    @property
    def is_lost(self) -> bool:
        """Whether another attempt owns the unit, or it was taken away."""
        return self._lost.is_set()

    @property
    def cancel_requested(self) -> bool:
        """Whether the unit shall be cancelled."""
        return self._cancel_requested.is_set()

    @property
    def gives_way(self) -> bool:
        """Whether the unit shall go back to the queue, where more urgent ones wait."""
        return self._gives_way.is_set()

    def _renew(self) -> None:
        pause = self._context.settings.heartbeat_seconds
        while not self._ended.wait(pause):
            pause = self._context.settings.heartbeat_seconds
            asked_at = time.monotonic()
            try:
                with self._context.sessions.begin() as session:
                    cancel_requested = heartbeat(session, self._claim, self._context.settings.lease_seconds)
                    gives_way = shall_give_way(session, self._claim)
            except LeaseLostError:
                self._lost.set()
                return
            except SQLAlchemyError as error:
                _log.warning("heartbeat_failed", error=str(error), seconds_left=self.seconds_left)
                pause = min(_RETRY_SECONDS, pause)
                continue
            self._renewed_at = asked_at
            if cancel_requested:
                self._cancel_requested.set()
            if gives_way:
                self._gives_way.set()

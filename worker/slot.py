"""The place for one unit at a time in a worker process, rung for by Celery or finding work itself."""

import threading
import time

import structlog
from sqlalchemy.exc import OperationalError

from service.leases import Claim, claim, is_waiting
from worker.attempt import run_attempt
from worker.context import WorkerContext

_log = structlog.get_logger(__name__)


class Slot:
    """Runs units, one after another, whoever asks."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context
        self._busy = threading.Lock()

    def answer(self, unit_id: str) -> None:
        """Answer a doorbell: if its unit still waits, do the unit whose turn it is.

        That is not always the one rung for: messages come in the order of submission, turns are fair.
        """
        with self._busy:
            try:
                with self._context.sessions() as session:
                    waiting = is_waiting(session, unit_id)
                if waiting:
                    self._do_next()
            except OperationalError as error:
                _log.warning("database_unreachable", error=str(error))

    def look(self) -> bool:
        """Do a unit if one waits and this place is free; say whether it did."""
        if not self._busy.acquire(blocking=False):
            return False
        try:
            return self._do_next()
        except OperationalError as error:
            _log.warning("database_unreachable", error=str(error))
            return False
        finally:
            self._busy.release()

    def _do_next(self) -> bool:
        if self._context.draining.is_set():
            return False
        claimed_at = time.monotonic()
        claimed = self._claim()
        if claimed is None:
            return False
        ids = {"unit_id": claimed.unit_id, "attempt": claimed.attempt, "job_id": claimed.job_id, "kind": claimed.kind}
        with structlog.contextvars.bound_contextvars(**ids):
            _log.info("unit_claimed")
            run_attempt(self._context, claimed, claimed_at)
        return True

    def _claim(self) -> Claim | None:
        with self._context.sessions.begin() as session:
            return claim(session, self._context.name, self._context.settings.lease_seconds)


class Poller:
    """Looks for work at intervals, so that lost messages and a dead broker cost seconds at most."""

    def __init__(self, slot: Slot, context: WorkerContext) -> None:
        self._slot = slot
        self._context = context
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    def start(self) -> None:
        """Begin looking."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the unit under way, if this is doing one. Only once the worker drains."""
        self._thread.join()

    def _run(self) -> None:
        draining = self._context.draining
        while not draining.is_set():
            try:
                found = self._slot.look()
            except Exception:  # noqa: BLE001  (one unit's misfortune must not leave the worker deaf)
                _log.exception("look_failed")
                found = False
            if not found:
                draining.wait(self._context.settings.poll_seconds)

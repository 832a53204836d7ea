"""Repairs what lost messages and lost workers leave behind. API and workers all run it; one at a time acts.

Every repair is guarded by the rows themselves, so the advisory lock only saves work. It is held for one pass: a
frozen holder loses it with its connection (``idle_session_timeout``).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from sqlalchemy import Engine, exists, func, or_, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from service.database import create_session_factory
from service.doorbell import Doorbell
from service.leases import expire
from service.lifecycle import advance
from service.models import Job, WorkUnit
from service.settings import ServiceSettings
from service.statuses import JOB_ENDED, JobStatus, UnitStatus
from service.transitions import LeaseLostError

_LOCK_KEY = 0x64646F5F72656331  # "ddo_rec1"
_LONGEST_PASS_SECONDS = 30
_RING_AGAIN_SECONDS = 15.0
_RING_AT_MOST = 200

_log = structlog.get_logger(__name__)


def reconcile(engine: Engine, doorbell: Doorbell, settings: ServiceSettings) -> bool:
    """Make one pass: requeue units of silent workers, advance stuck jobs, ring again for units that wait.

    Returns:
        Whether this process was the one to act.
    """
    sessions = create_session_factory(engine)
    with _only_one(engine) as alone:
        if not alone:
            return False
        ring = [*_expire_leases(sessions, settings), *_advance_stuck_jobs(sessions), *_waiting(sessions)]
    doorbell.ring(dict.fromkeys(ring))
    return True


@contextmanager
def _only_one(engine: Engine) -> Iterator[bool]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        alone = bool(connection.scalar(select(func.pg_try_advisory_lock(_LOCK_KEY))))
        if not alone:
            yield False
            return
        connection.execute(text(f"SET idle_session_timeout = '{_LONGEST_PASS_SECONDS}s'"))
        try:
            yield True
        finally:
            # closing the connection itself, not returning it, frees lock and setting whatever happened
            connection.invalidate()


def _expire_leases(sessions: sessionmaker[Session], settings: ServiceSettings) -> list[str]:
    with sessions() as session:
        silent = session.execute(
            select(WorkUnit.id, WorkUnit.attempt).where(
                WorkUnit.status == UnitStatus.RUNNING, WorkUnit.lease_expires_at < func.clock_timestamp()
            )
        ).all()
    ring: list[str] = []
    for unit_id, attempt in silent:
        try:
            with sessions.begin() as session:
                ring += expire(session, unit_id, attempt, max_crashes=settings.max_crashes)
            _log.warning("lease_expired", unit_id=unit_id, attempt=attempt)
        except LeaseLostError:
            continue
        except Exception:  # noqa: BLE001  (one job that cannot be read must not keep all others waiting)
            _log.exception("expire_failed", unit_id=unit_id)
    return ring


def _advance_stuck_jobs(sessions: sessionmaker[Session]) -> list[str]:
    """Advance jobs that nobody works on: no unit of theirs is queued or running."""
    open_unit = exists().where(WorkUnit.job_id == Job.id, WorkUnit.status.in_((UnitStatus.QUEUED, UnitStatus.RUNNING)))
    with sessions() as session:
        stuck = session.scalars(
            select(Job.id).where(
                or_(
                    Job.status.not_in([*JOB_ENDED, JobStatus.PAUSED]) & ~open_unit,
                    # an end or a cancellation leaves no unit waiting
                    Job.status.in_([*JOB_ENDED, JobStatus.CANCELLING])
                    & exists().where(WorkUnit.job_id == Job.id, WorkUnit.status == UnitStatus.QUEUED),
                )
            )
        ).all()
    ring: list[str] = []
    for job_id in stuck:
        try:
            with sessions.begin() as session:
                ring += advance(session, job_id)
        except Exception:  # noqa: BLE001  (as above)
            _log.exception("advance_failed", job_id=job_id)
    return ring


def _waiting(sessions: sessionmaker[Session]) -> list[str]:
    """Units that are due and were not rung for lately, marked as rung for."""
    long_ago = func.clock_timestamp() - timedelta(seconds=_RING_AGAIN_SECONDS)
    due = (
        select(WorkUnit.id)
        .where(WorkUnit.status == UnitStatus.QUEUED, WorkUnit.run_after <= func.clock_timestamp())
        .where(or_(WorkUnit.rung_at.is_(None), WorkUnit.rung_at < long_ago))
        .order_by(WorkUnit.run_after)
        .limit(_RING_AT_MOST)
        .with_for_update(skip_locked=True)
    )
    with sessions.begin() as session:
        return list(
            session.scalars(
                update(WorkUnit)
                .where(WorkUnit.id.in_(due.scalar_subquery()))
                .values(rung_at=func.clock_timestamp())
                .returning(WorkUnit.id)
            )
        )


class Reconciler:
    """Runs ``reconcile`` at intervals in a thread of its own."""

    def __init__(self, engine: Engine, doorbell: Doorbell, settings: ServiceSettings) -> None:
        self._engine = engine
        self._doorbell = doorbell
        self._settings = settings
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Begin; the first pass follows at once."""
        self._thread.start()

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Make no further pass, and wait for the one under way."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                reconcile(self._engine, self._doorbell, self._settings)
            except OperationalError as error:
                _log.warning("database_unreachable", error=str(error))
            except Exception:  # noqa: BLE001  (a defect in one pass must not end all later ones)
                _log.exception("reconcile_failed")
            self._stopped.wait(self._settings.reconcile_seconds)

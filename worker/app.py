"""The Celery application: ``celery -A worker.app worker``, or ``python -m worker``.

Celery brings the doorbell and stops the process in good order. Claims, leases and results are rows in Postgres.
"""

from typing import Any

import structlog
from celery import Celery
from celery.signals import setup_logging, worker_init, worker_shutdown, worker_shutting_down

from service.doorbell import RUN_UNIT
from service.logs import configure_logging
from service.reconciler import Reconciler
from service.settings import settings
from worker.context import WorkerContext
from worker.folders import sweep
from worker.slot import Poller, Slot

_log = structlog.get_logger(__name__)


class _Process:
    """What runs beside Celery in a worker process."""

    def __init__(self) -> None:
        self.context = WorkerContext.open(settings())
        self.slot = Slot(self.context)
        self.poller = Poller(self.slot, self.context)
        self.reconciler = Reconciler(self.context.engine, self.context.doorbell, self.context.settings)

    def start(self) -> None:
        sweep(self.context.settings.work_folder)
        self.poller.start()
        self.reconciler.start()

    def stop(self) -> None:
        self.context.draining.set()
        self.poller.join()
        self.reconciler.stop()
        self.context.close()


app = Celery("worker", set_as_current=False)
app.config_from_object("worker.celery_settings")
_process: _Process | None = None


@app.task(name=RUN_UNIT)
def run_unit(unit_id: str) -> None:
    """Answer the doorbell of one unit; returns at once if another worker has it."""
    assert _process is not None
    _process.slot.answer(unit_id)


@setup_logging.connect
def _on_setup_logging(**_: Any) -> None:
    configure_logging(settings())


@worker_init.connect
def _on_init(**_: Any) -> None:
    global _process  # noqa: PLW0603  (Celery's signals leave no other place)
    _process = _Process()
    _process.start()
    _log.info("worker_started", worker=_process.context.name)


@worker_shutting_down.connect
def _on_shutting_down(**_: Any) -> None:
    # Runs inside a signal handler: say it and return. Raising, or waiting, could break a commit under way.
    if _process is not None:
        _process.context.draining.set()


@worker_shutdown.connect
def _on_shutdown(**_: Any) -> None:
    if _process is not None:
        _process.stop()
        _log.info("worker_stopped", worker=_process.context.name)

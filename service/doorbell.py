"""Tells workers by Celery that there is work. Only a unit id travels; losing the message loses nothing.

Postgres owns the queue: an idle worker also asks it, and the reconciler rings again. So ringing never
blocks a caller for long and never raises.
"""

from collections.abc import Iterable

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from service.settings import ServiceSettings

QUEUE = "ddo-units"
RUN_UNIT = "worker.run_unit"
_BROKER_TIMEOUT_SECONDS = 1.0

_log = structlog.get_logger(__name__)


def celery_settings() -> dict[str, object]:
    """Return what producer and worker agree on: JSON, one queue, no results."""
    return {
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_ignore_result": True,
        "result_backend": None,
        "task_default_queue": QUEUE,
        "worker_send_task_events": False,
        "broker_transport_options": {
            "socket_connect_timeout": _BROKER_TIMEOUT_SECONDS,
            "health_check_interval": 10,
        },
    }


class Doorbell:
    """The producer's end of the broker. Thread-safe."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._app = Celery("ddo-doorbell", broker=settings.broker_url.get_secret_value(), set_as_current=False)
        self._app.conf.update(celery_settings())
        self._app.conf.broker_transport_options = {
            **self._app.conf.broker_transport_options,
            "socket_timeout": _BROKER_TIMEOUT_SECONDS,
            "max_retries": 0,
        }

    def ring(self, unit_ids: Iterable[str]) -> bool:
        """Send one message per unit; call it after the commit that queued them.

        Returns:
            Whether the broker took all of them. If not, workers find the units in the database.
        """
        for unit_id in unit_ids:
            try:
                self._app.send_task(RUN_UNIT, args=[unit_id], retry=False)
            except (OperationalError, OSError) as error:
                _log.warning("doorbell_not_heard", unit_id=unit_id, error=str(error))
                return False
        return True

    def close(self) -> None:
        """Close the connections to the broker."""
        self._app.close()

"""Numbers for Prometheus: requests as they happen, jobs and units counted in the database when asked."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from service.models import Job, WorkUnit
from service.statuses import JobStatus, UnitKind, UnitStatus

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Counts and times requests by method, route and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "ddo_http_request_seconds", "Time to answer.", ["method", "route"], buckets=_BUCKETS, registry=registry
        )
        self._count = Counter("ddo_http_requests", "Requests.", ["method", "route", "status"], registry=registry)

    def observe(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Record one request."""
        method = method if method in _METHODS else "OTHER"
        self._seconds.labels(method, route).observe(seconds)
        self._count.labels(method, route, str(status)).inc()


class WorkCollector(Collector):
    """Counts jobs by status, and units by kind and status; statuses without any are reported as 0."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def describe(self) -> list[GaugeMetricFamily]:
        """Name the metrics without asking the database."""
        return [self._jobs(), self._units()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Count."""
        with self._sessions() as session:
            jobs = dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).all())
            units = {
                (kind, status): count
                for kind, status, count in session.execute(
                    select(WorkUnit.kind, WorkUnit.status, func.count()).group_by(WorkUnit.kind, WorkUnit.status)
                )
            }
        job_gauge, unit_gauge = self._jobs(), self._units()
        for status in JobStatus:
            job_gauge.add_metric([status], jobs.get(status, 0))
        for kind in UnitKind:
            for unit_status in UnitStatus:
                unit_gauge.add_metric([kind, unit_status], units.get((kind, unit_status), 0))
        yield job_gauge
        yield unit_gauge

    @staticmethod
    def _jobs() -> GaugeMetricFamily:
        return GaugeMetricFamily("ddo_jobs", "Jobs by status.", labels=["status"])

    @staticmethod
    def _units() -> GaugeMetricFamily:
        return GaugeMetricFamily("ddo_units", "Units of work by kind and status.", labels=["kind", "status"])

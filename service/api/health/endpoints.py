"""``/healthz``, ``/readyz``, ``/metrics``: for whoever operates the service."""

from collections.abc import Callable
from typing import Literal

import redis
import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from service.api.dependencies import CallerDep, Sessions, SettingsDep, Store
from service.api.problems import Unauthorized, Unavailable, documented
from service.models import Job
from service.storage import StorageError

router = APIRouter(tags=["health"])

_log = structlog.get_logger(__name__)


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Check(BaseModel):
    """One thing that the service depends on."""

    ok: bool
    reason: str | None = Field(default=None, description="What is wrong with it.")


class Readiness(BaseModel):
    """Whether requests can be served."""

    status: Literal["ready"] = "ready"
    checks: dict[str, Check]


@router.get("/healthz")
def read_health() -> Health:
    """Tell that the process lives; asks nothing else."""
    return Health()


@router.get("/readyz", responses=documented(Unavailable))
def read_readiness(sessions: Sessions, store: Store, settings: SettingsDep) -> Readiness:
    """Tell whether database, broker and object store answer; 503 with the reasons if one does not."""

    def database() -> None:
        with sessions() as session:
            session.execute(text("SET LOCAL statement_timeout = 2000"))
            session.execute(select(Job.id).limit(1))

    def broker() -> None:
        url = settings.broker_url.get_secret_value()
        with redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            client.ping()

    checks = {"database": _check(database), "broker": _check(broker), "storage": _check(store.check)}
    failed = [name for name, check in checks.items() if not check.ok]
    if failed:
        raise Unavailable(
            f"Not ready: {', '.join(f'{name}: {checks[name].reason}' for name in failed)}.",
            code="not_ready",
            headers={"Retry-After": "5"},
            members={"checks": {name: check.model_dump() for name, check in checks.items()}},
        )
    return Readiness(checks=checks)


@router.get("/metrics", responses={200: {"content": {"text/plain": {}}}, **documented(Unauthorized)})
def read_metrics(_: CallerDep, request: Request) -> Response:
    """Report numbers for Prometheus: jobs and units by status over all tenants, requests, latencies."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


def _check(ask: Callable[[], object]) -> Check:
    try:
        ask()
    except SQLAlchemyError as error:
        _log.warning("not_ready", error=str(error))
        # the driver's text names host and user; the log has it
        return Check(ok=False, reason=f"the database does not answer ({type(error).__name__}), or is not migrated")
    except redis.RedisError as error:
        _log.warning("not_ready", error=str(error))
        return Check(ok=False, reason=f"the broker does not answer ({type(error).__name__})")
    except StorageError as error:
        _log.warning("not_ready", error=str(error))
        return Check(ok=False, reason=str(error))
    return Check(ok=True)

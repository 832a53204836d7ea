"""The API: ``uvicorn --factory service.main:create_app``. Importing this module reads no settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from service.api import error_handlers, openapi
from service.api.artifacts import endpoints as artifacts
from service.api.baselines import endpoints as baselines
from service.api.checkpoints import endpoints as checkpoints
from service.api.comparison import endpoints as comparison
from service.api.events import endpoints as events
from service.api.guidance_curve import endpoints as guidance_curve
from service.api.health import endpoints as health
from service.api.jobs import endpoints as jobs
from service.api.metrics import RequestMetrics, WorkCollector
from service.api.middleware import RequestContext
from service.api.objects import endpoints as objects
from service.api.presets import endpoints as presets
from service.api.rounds import endpoints as rounds
from service.database import create_database_engine, create_session_factory
from service.doorbell import Doorbell
from service.logs import configure_logging
from service.settings import ServiceSettings
from service.settings import settings as settings_from_environment
from service.sources import Sources
from service.storage import open_store
from service.storage.local import LocalStore


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """Return the API. Contacts nothing yet; what is missing shows in ``/readyz``.

    Args:
        settings: None reads them from the environment.

    Raises:
        ValueError: The settings do not fit together.
    """
    settings = settings or settings_from_environment()
    configure_logging(settings)
    store = open_store(settings)
    if isinstance(store, LocalStore) and store.signing_key is None:
        raise ValueError("a file:// store needs DDO_URL_SIGNING_KEY: the API signs its download URLs itself")
    engine = create_database_engine(settings)
    sessions = create_session_factory(engine)
    registry = CollectorRegistry()
    request_metrics = RequestMetrics(registry)
    registry.register(WorkCollector(sessions))
    doorbell = Doorbell(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        doorbell.close()
        engine.dispose()

    app = FastAPI(
        title="DDO finetuning",
        version=_version(),
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.store = store
    app.state.sources = Sources(settings, store)
    app.state.doorbell = doorbell
    app.state.registry = registry
    app.add_middleware(RequestContext, metrics=request_metrics)
    error_handlers.install(app)
    for domain in (
        jobs,
        rounds,
        guidance_curve,
        baselines,
        checkpoints,
        comparison,
        artifacts,
        events,
        presets,
        objects,
        health,
    ):
        app.include_router(domain.router)
    openapi.install(app)
    return app


def _version() -> str:
    try:
        return version("ddo-finetuning-service")
    except PackageNotFoundError:  # run from a source tree
        return "0+source"

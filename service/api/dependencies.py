"""What endpoints ask for: settings, sessions, the caller, the stores."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session, sessionmaker

from service.api.problems import Unauthorized
from service.auth import Caller, authenticate
from service.doorbell import Doorbell
from service.settings import ServiceSettings
from service.sources import Sources
from service.storage import ObjectStore

_bearer = HTTPBearer(auto_error=False, scheme_name="ApiKey", description="An API key: `ddo_…`.")


def _settings(request: Request) -> ServiceSettings:
    settings: ServiceSettings = request.app.state.settings
    return settings


def _sessions(request: Request) -> sessionmaker[Session]:
    sessions: sessionmaker[Session] = request.app.state.sessions
    return sessions


def _store(request: Request) -> ObjectStore:
    store: ObjectStore = request.app.state.store
    return store


def _sources(request: Request) -> Sources:
    sources: Sources = request.app.state.sources
    return sources


def _doorbell(request: Request) -> Doorbell:
    doorbell: Doorbell = request.app.state.doorbell
    return doorbell


SettingsDep = Annotated[ServiceSettings, Depends(_settings)]
# A factory, not a session: a connection is held only inside one endpoint's own thread, so that requests that wait
# for a connection can never occupy the threads in which others would give theirs back.
Sessions = Annotated[sessionmaker[Session], Depends(_sessions)]
Store = Annotated[ObjectStore, Depends(_store)]
SourcesDep = Annotated[Sources, Depends(_sources)]
DoorbellDep = Annotated[Doorbell, Depends(_doorbell)]


def _caller(
    request: Request,
    sessions: Sessions,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    if credentials is None:
        raise Unauthorized
    with sessions() as session:
        caller = authenticate(session, credentials.credentials)
    if caller is None:
        raise Unauthorized
    request.state.tenant_id = caller.tenant_id
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]

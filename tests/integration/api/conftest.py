"""The API on a real database, Valkey and object folder, served by uvicorn and spoken to over HTTP."""

import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from deploy.local.postgres import PostgresServer
from deploy.local.valkey import ValkeyServer
from service.main import create_app
from service.settings import ServiceSettings
from tests.api_server import Inputs, client_of, key_for, serving, write_inputs


def settings_for(database_url: str, valkey_url: str, folder: Path) -> ServiceSettings:
    return ServiceSettings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(valkey_url),
        storage_url=(folder / "objects").as_uri(),
        url_signing_key=SecretStr("k" * 40),
        input_roots=(folder / "inputs",),
        input_buckets=("allowed",),
        s3_endpoint_url="http://127.0.0.1:1",
        max_input_bytes=10_000,
        max_body_bytes=20_000,
    )


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return write_inputs(tmp_path / "inputs")


@pytest.fixture
def settings(database_url: str, valkey_url: str, tmp_path: Path, inputs: Inputs) -> ServiceSettings:
    return settings_for(database_url, valkey_url, tmp_path)


@pytest.fixture
def app(settings: ServiceSettings) -> Iterator[FastAPI]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    app = create_app(settings)
    yield app
    root.handlers[:], root.level = before
    app.state.sessions.kw["bind"].dispose()


@pytest.fixture
def sessions(app: FastAPI) -> sessionmaker[Session]:
    found: sessionmaker[Session] = app.state.sessions
    return found


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with serving(app) as url:
        yield url


@pytest.fixture
def client(url: str, sessions: sessionmaker[Session]) -> Iterator[httpx.Client]:
    """A client with the key of the tenant ``tenant``."""
    with client_of(url, key_for(sessions, "tenant")) as client:
        yield client


@pytest.fixture
def other_client(url: str, sessions: sessionmaker[Session]) -> Iterator[httpx.Client]:
    """A client of another tenant."""
    with client_of(url, key_for(sessions, "other")) as client:
        yield client


@pytest.fixture(scope="module")
def shared_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return write_inputs(tmp_path_factory.mktemp("shared") / "inputs")


@pytest.fixture(scope="module")
def shared_app(postgres: PostgresServer, valkey: ValkeyServer, shared_inputs: Inputs) -> Iterator[FastAPI]:
    """One API for all tests of a module that leave no trace in it."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    database_url = postgres.create_database("shared", template="migrated")
    app = create_app(settings_for(database_url, valkey.url(), shared_inputs.root.parent))
    yield app
    root.handlers[:], root.level = before
    app.state.sessions.kw["bind"].dispose()
    postgres.drop_database("shared")


@pytest.fixture(scope="module")
def shared_client(shared_app: FastAPI) -> Iterator[httpx.Client]:
    with serving(shared_app) as url, client_of(url, key_for(shared_app.state.sessions, "tenant")) as client:
        yield client

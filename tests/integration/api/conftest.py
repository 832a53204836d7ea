"""The API on a real database, Valkey and object folder, served by uvicorn and spoken to over HTTP."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session, sessionmaker

from service.auth import create_key
from service.main import create_app
from service.settings import ServiceSettings


@dataclass(frozen=True)
class Inputs:
    """Files that jobs may name."""

    root: Path
    base_checkpoint: str
    dataset: str
    feature_network: str

    def body(self, **changes: object) -> dict[str, object]:
        """A job that is fine, with some fields changed."""
        return {
            "preset": "digits",
            "base_checkpoint": self.base_checkpoint,
            "dataset": {"uri": self.dataset},
            "feature_network": self.feature_network,
        } | changes

    def complete_body(self) -> dict[str, object]:
        """A job that says everything itself."""
        return {
            "base_checkpoint": self.base_checkpoint,
            "dataset": {"uri": self.dataset, "grey_levels": 17},
            "feature_network": self.feature_network,
            "rounds": 2,
            "grid": {"alpha": [2.0, 4.0], "beta": [0.5]},
            "training": {
                "kimg": 2.0,
                "batch_size": 100,
                "learning_rate": 1e-3,
                "ema_half_life_kimg": 1.0,
                "evaluate_every_kimg": 1.0,
            },
            "reference_set": {"num_samples": 101, "shards": 2},
            "evaluation": {"num_samples": 50},
            "seed": 7,
        }


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    root = tmp_path / "inputs"
    root.mkdir()
    for name, size in (("base.safetensors", 1000), ("train.zip", 500), ("features.safetensors", 200)):
        (root / name).write_bytes(b"x" * size)
    return Inputs(
        root,
        (root / "base.safetensors").as_uri(),
        (root / "train.zip").as_uri(),
        (root / "features.safetensors").as_uri(),
    )


@pytest.fixture
def settings(database_url: str, valkey_url: str, tmp_path: Path, inputs: Inputs) -> ServiceSettings:
    return ServiceSettings(
        database_url=database_url,
        broker_url=valkey_url,
        storage_url=(tmp_path / "objects").as_uri(),
        url_signing_key="k" * 40,
        input_roots=(inputs.root,),
        max_input_bytes=10_000,
        max_body_bytes=20_000,
    )


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


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve ``app`` from a thread and yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


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


def client_of(url: str, key: str | None) -> httpx.Client:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False)


def key_for(sessions: sessionmaker[Session], tenant: str) -> str:
    with sessions.begin() as session:
        return create_key(session, tenant=tenant, name="tests")

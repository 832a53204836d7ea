"""Real servers for tests, one of each a session and process of pytest-xdist; every test finds them empty."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp

import pytest

from deploy.local.migrations import migrate
from deploy.local.postgres import PostgresServer
from deploy.local.valkey import ValkeyServer
from tests.servers.s3 import Bucket, SwiftServer

_TEMPLATE = "migrated"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` where there is none; torch is loaded only if there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private cluster with a database that is migrated once and then only copied."""
    with PostgresServer() as server:
        migrate(server.create_database(_TEMPLATE))
        yield server


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of a fresh database without any table."""
    yield postgres.create_database("empty")
    postgres.drop_database("empty")


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """SQLAlchemy URL of a fresh database with the newest schema."""
    yield postgres.create_database("fresh", template=_TEMPLATE)
    postgres.drop_database("fresh")


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A private Valkey."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey_url(valkey: ValkeyServer) -> str:
    """URL of an empty Valkey database."""
    with valkey.connect() as client:
        client.flushall()
    return valkey.url()


@pytest.fixture(scope="session")
def swift_server() -> Iterator[SwiftServer]:
    """An S3 endpoint that checks signatures, expiry, method and length, as AWS does."""
    with SwiftServer() as server:
        yield server


@pytest.fixture
def swift(swift_server: SwiftServer) -> Bucket:
    """A fresh bucket of it; ``swift.environment()`` are the settings of API and worker."""
    return swift_server.bucket(f"test-{token_hex(6)}")


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that any account can enter; pytest's own are private."""
    folder = Path(mkdtemp(prefix="ddo-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)

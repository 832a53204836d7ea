"""A migrated database, and jobs in it."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from service.database import create_database_engine, create_session_factory
from service.settings import ServiceSettings


@pytest.fixture
def service_settings(database_url: str, valkey_url: str, tmp_path) -> ServiceSettings:
    return ServiceSettings(
        database_url=SecretStr(database_url),
        broker_url=SecretStr(valkey_url),
        storage_url=f"file://{tmp_path}/store",
        url_signing_key=SecretStr("k" * 32),
    )


@pytest.fixture
def engine(service_settings: ServiceSettings) -> Iterator[Engine]:
    engine = create_database_engine(service_settings, pool_size=20)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return create_session_factory(engine)

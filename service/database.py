"""Connections to Postgres: one engine a process, short transactions."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

from service.settings import ServiceSettings


def create_database_engine(settings: ServiceSettings, *, pool_size: int = 10) -> Engine:
    """Return an engine whose connections are checked before use and give up on a statement after 30 s."""
    return create_engine(
        settings.database_url.get_secret_value(),
        pool_size=pool_size,
        pool_pre_ping=True,
        connect_args={"connect_timeout": 5, "options": "-c statement_timeout=30000 -c lock_timeout=10000"},
    )


def create_session_factory(engine: Engine) -> sessionmaker[Session]:
    """Return a factory of sessions; use ``with factory.begin() as session``."""
    return sessionmaker(engine, expire_on_commit=False)

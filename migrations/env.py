"""Alembic's environment: one connection, one migration run at a time.

The database is ``sqlalchemy.url`` of the configuration where a program set it, else ``DDO_DATABASE_URL``.
"""

import os

from alembic import context
from sqlalchemy import NullPool, create_engine, text

from service.models import Base

_LOCK = 0x0DD0_0001


def _database_url() -> str:
    url = context.config.get_main_option("sqlalchemy.url") or os.environ.get("DDO_DATABASE_URL")
    if not url:
        raise SystemExit("set DDO_DATABASE_URL, for instance postgresql+psycopg://user:password@host:5432/database")
    return url


def _migrate() -> None:
    engine = create_engine(_database_url(), poolclass=NullPool, connect_args={"connect_timeout": 10})
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
        context.run_migrations()


if context.is_offline_mode():
    context.configure(url=_database_url(), target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    _migrate()

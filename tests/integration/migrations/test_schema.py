"""The migrations and ``service.models`` say the same."""

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from deploy.local.migrations import alembic_config, migrate
from service.models import Base

_CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default, is_identity,
               col_description(format('%I', table_name)::regclass, ordinal_position)
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid <> coalesce(to_regclass('alembic_version'), 0)""",
    "indexes": """
        SELECT tablename, indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> 'alembic_version'""",
}


def _catalog(connection: Connection) -> set[tuple[object, ...]]:
    return {(kind, *row) for kind, query in _CATALOG.items() for row in connection.execute(text(query))}


def _engine(url: str) -> Engine:
    return create_engine(url, poolclass=NullPool)


def test_autogenerate_after_migration_finds_no_difference(database_url: str) -> None:
    with _engine(database_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrated_catalog_equals_that_of_models(database_url: str, empty_database_url: str) -> None:
    with _engine(empty_database_url).begin() as connection:
        Base.metadata.create_all(connection)
        of_models = _catalog(connection)
    with _engine(database_url).connect() as connection:
        assert _catalog(connection) == of_models
    assert {kind for kind, *_ in of_models} == set(_CATALOG)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE jobs DROP CONSTRAINT ck_jobs_status_known",
        "ALTER TABLE rounds DROP CONSTRAINT fk_rounds_winner_checkpoint_id_checkpoints",
        "ALTER TABLE jobs ALTER COLUMN spec DROP NOT NULL",
        "DROP INDEX ix_events_job_id_id",
    ],
)
def test_catalog_after_a_change_differs(database_url: str, change: str) -> None:
    with _engine(database_url).begin() as connection:
        before = _catalog(connection)
        connection.execute(text(change))
        assert _catalog(connection) != before


def test_downgrade_to_nothing_and_back_restores_the_schema(database_url: str) -> None:
    engine = _engine(database_url)
    with engine.connect() as connection:
        before = _catalog(connection)
    command.downgrade(alembic_config(database_url), "base")
    with engine.connect() as connection:
        assert _catalog(connection) == set()
    migrate(database_url)
    with engine.connect() as connection:
        assert _catalog(connection) == before

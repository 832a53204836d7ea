"""The migrations and ``service.models`` say the same."""

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, NullPool, create_engine, select, text
from sqlalchemy.orm import Session

from deploy.local.migrations import alembic_config, migrate
from service.models import (
    Artifact,
    Base,
    Checkpoint,
    Evaluation,
    Job,
    Round,
    Tenant,
    TrainingMetric,
    Trial,
    WorkUnit,
)
from service.statuses import UnitKind

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


def _trials(session: Session, betas: list[tuple[float | None, float | None]]) -> None:
    """Add a job with one trial for each (beta, found_beta)."""
    tenant = Tenant(name="tenant")
    session.add(tenant)
    session.flush()
    job = Job(tenant_id=tenant.id, spec={})
    session.add(job)
    session.flush()
    round_ = Round(job_id=job.id, round_index=1)
    session.add(round_)
    session.flush()
    for index, (beta, found) in enumerate(betas):
        unit = WorkUnit(job_id=job.id, round_id=round_.id, kind=UnitKind.TRIAL, spec={})
        session.add(unit)
        session.flush()
        cell = {"trial_index": index, "alpha": 1.0, "beta": beta, "found_beta": found}
        session.add(Trial(round_id=round_.id, unit_id=unit.id, **cell))


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


def test_downgrade_below_0003_keeps_the_beta_that_a_probe_found(database_url: str) -> None:
    engine = _engine(database_url)
    with Session(engine) as session, session.begin():
        _trials(session, [(0.5, None), (None, 0.02), (None, None)])
    command.downgrade(alembic_config(database_url), "0002")
    with engine.connect() as connection:
        betas = connection.execute(text("SELECT beta FROM trials ORDER BY trial_index")).scalars().all()
    # without a probe's beta the old schema, which must have one, gets 1
    assert betas == [0.5, 0.02, 1.0]


def test_warnings_follow_their_unit_up_to_0004_and_down_again(database_url: str) -> None:
    engine = _engine(database_url)
    with Session(engine) as session, session.begin():
        _trials(session, [(0.5, None), (1.0, None)])
        unit = session.scalars(select(WorkUnit).order_by(WorkUnit.id)).first()
        unit.warnings = [{"code": "discriminator_idle"}]
    stored = "SELECT warnings FROM {} ORDER BY jsonb_array_length(warnings)"
    command.downgrade(alembic_config(database_url), "0003")
    with engine.connect() as connection:
        below = connection.execute(text(stored.format("trials"))).scalars().all()
    migrate(database_url)
    with engine.connect() as connection:
        above = connection.execute(text(stored.format("work_units"))).scalars().all()
    assert below == above == [[], [{"code": "discriminator_idle"}]]


def test_downgrade_below_0004_takes_baselines_along(database_url: str) -> None:
    engine = _engine(database_url)
    with Session(engine) as session, session.begin():
        _trials(session, [(0.5, None)])
        job, round_ = session.scalars(select(Job)).one(), session.scalars(select(Round)).one()
        unit = WorkUnit(job_id=job.id, round_id=round_.id, kind=UnitKind.BASELINE_TRIAL, spec={}, baseline_index=0)
        session.add(unit)
        session.flush()
        stored = {"object_key": "key", "sha256": "0" * 64, "size_bytes": 1}
        place = {"job_id": job.id, "round_id": round_.id, "tenant_id": job.tenant_id}
        trained = Checkpoint(unit_id=unit.id, manifest={}, **place, **stored)
        session.add(trained)
        session.flush()
        session.add(Checkpoint(parent_checkpoint_id=trained.id, manifest={}, **place, **stored))
        session.add(Job(tenant_id=job.tenant_id, spec={}, parent_checkpoint_id=trained.id))
        session.add(TrainingMetric(unit_id=unit.id, step=1, kimg=0.1, values={}))
        session.add(Artifact(unit_id=unit.id, role="snapshot", info={}, **stored))
        session.add(
            Evaluation(
                job_id=job.id,
                unit_id=unit.id,
                checkpoint_id=trained.id,
                kimg=0.1,
                fingerprint="",
                protocol={},
                metrics={},
            )
        )
    command.downgrade(alembic_config(database_url), "0003")
    tables = ("work_units", "trials", "checkpoints", "jobs", "evaluations", "training_metrics", "artifacts")
    with engine.connect() as connection:
        counts = {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables}
    assert counts == dict(zip(tables, (1, 1, 1, 2, 0, 0, 0), strict=True))

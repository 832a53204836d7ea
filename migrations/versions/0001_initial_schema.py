"""Initial schema.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False, comment="first characters, for people to recognise a key by"),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "spec",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="ddo_engine.spec.JobSpec, preset filled in",
        ),
        sa.Column(
            "inputs",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="service.planner.JobInputs: checked files in our storage, and what they are; null until validated",
        ),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_hash", sa.Text(), nullable=True),
        sa.Column("termination_reason", sa.Text(), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="{code, message, param}"),
        sa.Column("best_checkpoint_id", sa.String(length=40), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('validating', 'queued', 'running', 'paused', 'cancelling', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_jobs_status_known"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_jobs_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name=op.f("uq_jobs_tenant_id_idempotency_key")),
    )
    op.create_index("ix_jobs_tenant_id_created_at_id", "jobs", ["tenant_id", "created_at", "id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("unit_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_events_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_job_id_id", "events", ["job_id", "id"], unique=False)
    op.create_table(
        "rounds",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("round_index", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reference_checkpoint_id", sa.String(length=40), nullable=True),
        sa.Column("winner_checkpoint_id", sa.String(length=40), nullable=True),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('pending', 'generating', 'training', 'selecting', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_rounds_status_known"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_rounds_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rounds")),
        sa.UniqueConstraint("job_id", "round_index", name=op.f("uq_rounds_job_id_round_index")),
    )
    op.create_table(
        "work_units",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("round_id", sa.String(length=40), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, comment="order within its kind and round"),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column(
            "spec",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="ddo_engine.spec.UnitSpec with uris, no local paths",
        ),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False, comment="ended attempts since the last saved progress"),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("run_after", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=True, comment="when its doorbell was last sent"),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column(
            "progress", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="ddo_engine.spec.Progress"
        ),
        sa.Column(
            "state",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="ddo_engine.spec.FileRef of the newest training state",
        ),
        sa.Column("state_kimg", sa.Float(precision=53), nullable=True),
        sa.Column(
            "report",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="ddo_engine.spec.Report of a validate unit",
        ),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="{code, message, param}"),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')",
            name=op.f("ck_work_units_status_known"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_work_units_job_id_jobs")),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_work_units_round_id_rounds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_units")),
    )
    op.create_index("ix_work_units_job_id", "work_units", ["job_id"], unique=False)
    op.create_index("ix_work_units_status_run_after", "work_units", ["status", "run_after"], unique=False)
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("unit_id", sa.String(length=40), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("info", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["unit_id"], ["work_units.id"], name=op.f("fk_artifacts_unit_id_work_units")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("unit_id", "role", name=op.f("uq_artifacts_unit_id_role")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("round_id", sa.String(length=40), nullable=False),
        sa.Column(
            "unit_id", sa.String(length=40), nullable=True, comment="the trial that trained it; null for the base"
        ),
        sa.Column("parent_checkpoint_id", sa.String(length=40), nullable=True),
        sa.Column("kimg", sa.Float(precision=53), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["parent_checkpoint_id"], ["checkpoints.id"], name=op.f("fk_checkpoints_parent_checkpoint_id_checkpoints")
        ),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_checkpoints_round_id_rounds")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_checkpoints_tenant_id_tenants")),
        sa.ForeignKeyConstraint(["unit_id"], ["work_units.id"], name=op.f("fk_checkpoints_unit_id_work_units")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoints")),
        sa.UniqueConstraint("unit_id", "kimg", name=op.f("uq_checkpoints_unit_id_kimg")),
    )
    op.create_index("ix_checkpoints_job_id", "checkpoints", ["job_id"], unique=False)
    op.create_table(
        "training_metrics",
        sa.Column("unit_id", sa.String(length=40), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("kimg", sa.Float(precision=53), nullable=False),
        sa.Column("values", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["unit_id"], ["work_units.id"], name=op.f("fk_training_metrics_unit_id_work_units")),
        sa.PrimaryKeyConstraint("unit_id", "step", name=op.f("pk_training_metrics")),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("round_id", sa.String(length=40), nullable=False),
        sa.Column("trial_index", sa.Integer(), nullable=False),
        sa.Column("alpha", sa.Float(precision=53), nullable=False),
        sa.Column("beta", sa.Float(precision=53), nullable=False),
        sa.Column("unit_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["round_id"], ["rounds.id"], name=op.f("fk_trials_round_id_rounds")),
        sa.ForeignKeyConstraint(["unit_id"], ["work_units.id"], name=op.f("fk_trials_unit_id_work_units")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("round_id", "trial_index", name=op.f("uq_trials_round_id_trial_index")),
        sa.UniqueConstraint("unit_id", name=op.f("uq_trials_unit_id")),
    )
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("unit_id", sa.String(length=40), nullable=False),
        sa.Column(
            "checkpoint_id",
            sa.String(length=40),
            nullable=True,
            comment="null where the evaluated weights were not kept",
        ),
        sa.Column("kimg", sa.Float(precision=53), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("protocol", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("metrics", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"], ["checkpoints.id"], name=op.f("fk_evaluations_checkpoint_id_checkpoints")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evaluations_job_id_jobs")),
        sa.ForeignKeyConstraint(["unit_id"], ["work_units.id"], name=op.f("fk_evaluations_unit_id_work_units")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint(
            "unit_id",
            "checkpoint_id",
            "kimg",
            "fingerprint",
            name=op.f("uq_evaluations_unit_id_checkpoint_id_kimg_fingerprint"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(op.f("ix_evaluations_checkpoint_id"), "evaluations", ["checkpoint_id"], unique=False)
    op.create_index(op.f("ix_evaluations_job_id"), "evaluations", ["job_id"], unique=False)
    op.create_foreign_key(
        op.f("fk_jobs_best_checkpoint_id_checkpoints"), "jobs", "checkpoints", ["best_checkpoint_id"], ["id"]
    )
    op.create_foreign_key(
        op.f("fk_rounds_reference_checkpoint_id_checkpoints"),
        "rounds",
        "checkpoints",
        ["reference_checkpoint_id"],
        ["id"],
    )
    op.create_foreign_key(
        op.f("fk_rounds_winner_checkpoint_id_checkpoints"), "rounds", "checkpoints", ["winner_checkpoint_id"], ["id"]
    )


def downgrade() -> None:
    op.drop_constraint(op.f("fk_rounds_winner_checkpoint_id_checkpoints"), "rounds", type_="foreignkey")
    op.drop_constraint(op.f("fk_rounds_reference_checkpoint_id_checkpoints"), "rounds", type_="foreignkey")
    op.drop_constraint(op.f("fk_jobs_best_checkpoint_id_checkpoints"), "jobs", type_="foreignkey")
    op.drop_index(op.f("ix_evaluations_job_id"), table_name="evaluations")
    op.drop_index(op.f("ix_evaluations_checkpoint_id"), table_name="evaluations")
    op.drop_table("evaluations")
    op.drop_table("trials")
    op.drop_table("training_metrics")
    op.drop_index("ix_checkpoints_job_id", table_name="checkpoints")
    op.drop_table("checkpoints")
    op.drop_table("artifacts")
    op.drop_index("ix_work_units_status_run_after", table_name="work_units")
    op.drop_index("ix_work_units_job_id", table_name="work_units")
    op.drop_table("work_units")
    op.drop_table("rounds")
    op.drop_index("ix_events_job_id_id", table_name="events")
    op.drop_table("events")
    op.drop_index("ix_jobs_tenant_id_created_at_id", table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("api_keys")
    op.drop_table("tenants")

"""Units may serve a baseline instead of the rounds, and warnings are a unit's, since not only trials train.

Revision: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OF_UNITS = "[{code, message, step, kimg}] of its training in order, each code once"
_OF_TRIALS = "[{code, message, step, kimg}] in order, each code once"
_POSITION, _OLD_POSITION = "order within its kind and round, or baseline", "order within its kind and round"
_UNIT, _OLD_UNIT = (
    "the trial, a round's or a baseline's, that trained it; null for the base",
    "the trial that trained it; null for the base",
)
_BASELINE_UNITS = "SELECT id FROM work_units WHERE baseline_index IS NOT NULL"
_BASELINE_CHECKPOINTS = f"SELECT id FROM checkpoints WHERE unit_id IN ({_BASELINE_UNITS})"


def upgrade() -> None:
    op.add_column(
        "work_units",
        sa.Column(
            "baseline_index",
            sa.Integer(),
            nullable=True,
            comment="in the job's baselines; null: it serves the rounds",
        ),
    )
    op.alter_column("work_units", "position", comment=_POSITION, existing_comment=_OLD_POSITION)
    op.alter_column("checkpoints", "unit_id", comment=_UNIT, existing_comment=_OLD_UNIT)
    _add_warnings("work_units", _OF_UNITS)
    op.execute("UPDATE work_units SET warnings = trials.warnings FROM trials WHERE trials.unit_id = work_units.id")
    op.drop_column("trials", "warnings")


def downgrade() -> None:
    """Baselines go with all that they found: the old service would rank them among its trials."""
    _add_warnings("trials", _OF_TRIALS)
    op.execute("UPDATE trials SET warnings = work_units.warnings FROM work_units WHERE work_units.id = trials.unit_id")
    op.drop_column("work_units", "warnings")
    for table in ("artifacts", "training_metrics", "evaluations"):
        op.execute(f"DELETE FROM {table} WHERE unit_id IN ({_BASELINE_UNITS})")  # noqa: S608  (names of ours)
    op.execute(f"UPDATE jobs SET parent_checkpoint_id = NULL WHERE parent_checkpoint_id IN ({_BASELINE_CHECKPOINTS})")
    op.execute(
        "UPDATE checkpoints SET parent_checkpoint_id = NULL "
        f"WHERE parent_checkpoint_id IN ({_BASELINE_CHECKPOINTS})"
    )
    op.execute(f"DELETE FROM checkpoints WHERE unit_id IN ({_BASELINE_UNITS})")
    op.execute("DELETE FROM work_units WHERE baseline_index IS NOT NULL")
    op.alter_column("checkpoints", "unit_id", comment=_OLD_UNIT, existing_comment=_UNIT)
    op.alter_column("work_units", "position", comment=_OLD_POSITION, existing_comment=_POSITION)
    op.drop_column("work_units", "baseline_index")


def _add_warnings(table: str, comment: str) -> None:
    op.add_column(
        table,
        sa.Column(
            "warnings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment=comment,
        ),
    )
    op.alter_column(table, "warnings", server_default=None)

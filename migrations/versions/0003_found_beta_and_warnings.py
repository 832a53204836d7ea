"""A trial's beta may be left to its probe, a trial has warnings, and a unit several files of one role.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("trials", "beta", nullable=True, comment="null: left to the probe")
    op.add_column(
        "trials",
        sa.Column("found_beta", sa.Float(precision=53), nullable=True, comment="what the probe found; null: none did"),
    )
    op.add_column(
        "trials",
        sa.Column(
            "warnings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="[]",
            nullable=False,
            comment="[{code, message, step, kimg}] in order, each code once",
        ),
    )
    op.alter_column("trials", "warnings", server_default=None)
    op.add_column(
        "artifacts",
        sa.Column(
            "name",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="tells files of one role apart; empty where there is one",
        ),
    )
    op.alter_column("artifacts", "name", server_default=None)
    op.drop_constraint("uq_artifacts_unit_id_role", "artifacts", type_="unique")
    op.create_unique_constraint("uq_artifacts_unit_id_role_name", "artifacts", ["unit_id", "role", "name"])


def downgrade() -> None:
    op.execute("DELETE FROM artifacts WHERE name <> ''")
    op.drop_constraint("uq_artifacts_unit_id_role_name", "artifacts", type_="unique")
    op.create_unique_constraint("uq_artifacts_unit_id_role", "artifacts", ["unit_id", "role"])
    op.drop_column("artifacts", "name")
    op.drop_column("trials", "warnings")
    op.execute("UPDATE trials SET beta = COALESCE(found_beta, 1) WHERE beta IS NULL")
    op.drop_column("trials", "found_beta")
    op.alter_column("trials", "beta", nullable=False, comment=None)

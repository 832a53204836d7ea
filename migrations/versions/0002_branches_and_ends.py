"""Jobs that branch from a checkpoint of another, and a sentence about why a job ended.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PARENT = "fk_jobs_parent_checkpoint_id_checkpoints"


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column(
            "parent_checkpoint_id",
            sa.String(length=40),
            nullable=True,
            comment="the checkpoint that it branches from; null: a file",
        ),
    )
    op.create_foreign_key(op.f(_PARENT), "jobs", "checkpoints", ["parent_checkpoint_id"], ["id"])
    op.add_column(
        "jobs",
        sa.Column(
            "termination_message",
            sa.Text(),
            nullable=True,
            comment="why it ended, in a sentence; a failure's is in error",
        ),
    )


def downgrade() -> None:
    op.drop_column("jobs", "termination_message")
    op.drop_constraint(op.f(_PARENT), "jobs", type_="foreignkey")
    op.drop_column("jobs", "parent_checkpoint_id")

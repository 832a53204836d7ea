"""Evaluations know the picture of their first samples.

Revision: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY = "fk_evaluations_samples_id_artifacts"


def upgrade() -> None:
    op.add_column(
        "evaluations",
        sa.Column(
            "samples_id", sa.String(length=40), nullable=True, comment="picture of the first samples, where one was drawn"
        ),
    )
    op.create_foreign_key(op.f(_KEY), "evaluations", "artifacts", ["samples_id"], ["id"])


def downgrade() -> None:
    """Pictures go: the old service has no name for their role."""
    op.drop_column("evaluations", "samples_id")
    op.execute("DELETE FROM artifacts WHERE role = 'samples'")

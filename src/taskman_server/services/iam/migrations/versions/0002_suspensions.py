"""Who is shut out, or about to be."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskman_server.kit.db.schema import compare_by_code_point

revision = "0002"
down_revision = "0001"
survives = "0002"  # the code before it never left this house
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "suspensions",
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops it."""
    op.drop_table("suspensions")

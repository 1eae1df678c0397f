"""Users."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskman_server.kit.db import UtcTimestamp
from taskman_server.kit.db.schema import compare_by_code_point
from taskman_server.kit.outbox import create_event_tables, drop_event_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("locale", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("registration", sa.Text),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
        sa.UniqueConstraint("email", name="users_email"),
        sa.UniqueConstraint("registration", name="users_registration"),
    )
    op.create_index("users_create_time", "users", ["organization", "create_time", "id"])
    op.create_index("users_display_name", "users", ["organization", "display_name", "id"])
    op.create_index("users_organization_email", "users", ["organization", "email", "id"])
    create_event_tables(op)
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    op.drop_table("users")

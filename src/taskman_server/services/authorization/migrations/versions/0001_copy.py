"""The copy of roles, policies and assignments, and how far it has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from taskman_server.kit.db import JsonText, UtcTimestamp
from taskman_server.kit.db.schema import compare_by_code_point
from taskman_server.kit.outbox import create_event_tables, drop_event_tables

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "organizations",
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("ahead", JsonText, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("loaded", sa.Boolean, nullable=False),
    )
    op.create_table(
        "roles",
        *_common(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("permissions", JsonText, nullable=False),
    )
    op.create_table(
        "policies",
        *_common(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("allow", sa.Boolean, nullable=False),
        sa.Column("roles", JsonText, nullable=False),
        sa.Column("permissions", JsonText, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
    )
    op.create_table(
        "assignments",
        *_common(),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("expire_time", UtcTimestamp),
    )
    op.create_index("assignments_principal", "assignments", ["organization", "principal"])
    create_event_tables(op)
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    for table in ("assignments", "policies", "roles", "organizations"):
        op.drop_table(table)


def _common() -> list[sa.Column[object]]:
    return [
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("gone", sa.Boolean, nullable=False),
    ]

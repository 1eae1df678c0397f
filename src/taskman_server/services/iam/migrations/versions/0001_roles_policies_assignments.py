"""Roles, policies, assignments, and the version of each organization."""

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
    )
    op.create_table(
        "roles",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("permissions", JsonText, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
        sa.UniqueConstraint("organization", "name", name="roles_name"),
    )
    op.create_table(
        "policies",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("effect", sa.Text, nullable=False),
        sa.Column("roles", JsonText, nullable=False),
        sa.Column("permissions", JsonText, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
        sa.UniqueConstraint("organization", "name", name="policies_name"),
    )
    op.create_table(
        "assignments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("expire_time", UtcTimestamp),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.UniqueConstraint("organization", "principal", "role", name="assignments_principal_role"),
    )
    op.create_index("assignments_role", "assignments", ["organization", "role"])
    op.create_table(
        "provisions",
        sa.Column("organization", sa.Text, primary_key=True),
        sa.Column("principal", sa.Text, primary_key=True),
        sa.Column("assignment", sa.Text, nullable=False),
    )
    create_event_tables(op)
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    for table in ("provisions", "assignments", "policies", "roles", "organizations"):
        op.drop_table(table)

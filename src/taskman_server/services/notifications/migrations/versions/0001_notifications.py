"""Recipients, inbox, webhooks, deliveries and their attempts."""

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
        "recipients",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("locale", sa.Text, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("event_time", UtcTimestamp, nullable=False),
    )
    op.create_table(
        "notifications",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("read_time", UtcTimestamp, nullable=True),
        sa.Column("create_time", UtcTimestamp, nullable=False),
    )
    op.create_index("notifications_inbox", "notifications", ["organization", "user", "id"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("event_types", JsonText, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("secret", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_index("webhooks_organization", "webhooks", ["organization", "id"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("webhook", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("next_attempt_time", UtcTimestamp, nullable=True),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("sensitive", sa.Boolean, nullable=False),
        sa.Column("payload", sa.Text, nullable=True),
    )
    op.create_index("deliveries_organization", "deliveries", ["organization", "id"])
    op.create_index("deliveries_due", "deliveries", ["state", "next_attempt_time"])
    op.create_table(
        "attempts",
        sa.Column("delivery", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("time", UtcTimestamp, nullable=False),
        sa.Column("status_code", sa.Integer, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("duration_ms", sa.Integer, nullable=False),
    )
    create_event_tables(op)
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    for table in ("attempts", "deliveries", "webhooks", "notifications", "recipients"):
        op.drop_table(table)

"""Credentials, sessions, keys, and what is asked for before sign-in."""

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
        "credentials",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("password_hash", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("update_time", UtcTimestamp, nullable=False),
    )
    op.create_table(
        "registrations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("last_used_time", UtcTimestamp, nullable=False),
        sa.Column("ip_address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("rotate_time", UtcTimestamp, nullable=False),
        sa.Column("expire_time", UtcTimestamp, nullable=False),
        sa.Column("end_time", UtcTimestamp),
        sa.Column("end_reason", sa.Text, nullable=False),
    )
    op.create_index("sessions_user", "sessions", ["user_id"])
    op.create_index("sessions_expire_time", "sessions", ["expire_time"])
    op.create_table(
        "refresh_tokens",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("expire_time", UtcTimestamp, nullable=False),
    )
    op.create_index("refresh_tokens_expire_time", "refresh_tokens", ["expire_time"])
    op.create_table(
        "action_tokens",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("expire_time", UtcTimestamp, nullable=False),
        sa.Column("use_time", UtcTimestamp),
    )
    op.create_index("action_tokens_user", "action_tokens", ["user_id"])
    op.create_index("action_tokens_expire_time", "action_tokens", ["expire_time"])
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("private_key", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("retire_time", UtcTimestamp),
    )
    op.create_table(
        "throttles",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_time", UtcTimestamp, nullable=False),
        sa.Column("reported", sa.Boolean, nullable=False),
    )
    op.create_index("throttles_last_time", "throttles", ["last_time"])
    op.create_table(
        "known_addresses",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("prefix", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("last_time", UtcTimestamp, nullable=False),
    )
    op.create_index("known_addresses_last_time", "known_addresses", ["last_time"])
    op.create_table(
        "mail_requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("template", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("create_time", UtcTimestamp, nullable=False),
        sa.Column("due_time", UtcTimestamp, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("traceparent", sa.Text, nullable=False),
        sa.Column("ip_address", sa.Text, nullable=False),
        sa.Column("user_agent", sa.Text, nullable=False),
        sa.UniqueConstraint("template", "email", name="mail_requests_address"),
    )
    op.create_index("mail_requests_due_time", "mail_requests", ["due_time"])
    op.create_table(
        "milestones",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("organization", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("time", UtcTimestamp, nullable=False),
    )
    create_event_tables(op)
    compare_by_code_point(op)


def downgrade() -> None:
    """Drops them."""
    drop_event_tables(op)
    for table in (
        "milestones",
        "mail_requests",
        "known_addresses",
        "throttles",
        "signing_keys",
        "action_tokens",
        "refresh_tokens",
        "sessions",
        "registrations",
        "credentials",
    ):
        op.drop_table(table)

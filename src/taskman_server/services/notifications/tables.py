"""The tables of the notification service."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from taskman_server.kit.db import JsonText, UtcTimestamp
from taskman_server.kit.outbox import add_event_tables

__all__ = ["ATTEMPTS", "DELIVERIES", "METADATA", "NOTIFICATIONS", "RECIPIENTS", "WEBHOOKS"]

METADATA: Final = sa.MetaData()
add_event_tables(METADATA)

RECIPIENTS: Final = sa.Table(
    "recipients",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("locale", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    # The time of the event that said so: an older one changes nothing.
    sa.Column("event_time", UtcTimestamp, nullable=False),
)

NOTIFICATIONS: Final = sa.Table(
    "notifications",
    METADATA,
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
    sa.Index("notifications_inbox", "organization", "user", "id"),
)

WEBHOOKS: Final = sa.Table(
    "webhooks",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("event_types", JsonText, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    # As it is, not hashed: it must sign.
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("create_time", UtcTimestamp, nullable=False),
    sa.Column("update_time", UtcTimestamp, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Index("webhooks_organization", "organization", "id"),
)

DELIVERIES: Final = sa.Table(
    "deliveries",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    # An address or URL; the id of a user whose address is not known yet.
    sa.Column("recipient", sa.Text, nullable=False),
    sa.Column("webhook", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    # While pending. An attempt at work has moved it on, so that a crash lets the next one begin then.
    sa.Column("next_attempt_time", UtcTimestamp, nullable=True),
    sa.Column("create_time", UtcTimestamp, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    # Attempts that failed since it was last sent off; `attempts` has them all.
    sa.Column("tries", sa.Integer, nullable=False),
    # Holds a secret: `payload` is wiped when the delivery ends.
    sa.Column("sensitive", sa.Boolean, nullable=False),
    sa.Column("payload", sa.Text, nullable=True),
    sa.Index("deliveries_organization", "organization", "id"),
    sa.Index("deliveries_due", "state", "next_attempt_time"),
    sa.Index("deliveries_turns", "state", "channel", "organization", "next_attempt_time"),
    sa.Index("deliveries_webhook", "state", "webhook", "next_attempt_time"),
)

ATTEMPTS: Final = sa.Table(
    "attempts",
    METADATA,
    sa.Column("delivery", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("time", UtcTimestamp, nullable=False),
    sa.Column("status_code", sa.Integer, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("duration_ms", sa.Integer, nullable=False),
)

"""The tables of the Authentication service. Nothing else in the deployment holds a credential (OPEN-POINTS 2)."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Index, Integer, MetaData, Table, Text, UniqueConstraint

from taskman_server.kit.db import UtcTimestamp
from taskman_server.kit.outbox import add_event_tables

__all__ = [
    "ACTION_TOKENS", "CREDENTIALS", "KNOWN_ADDRESSES", "MAIL_REQUESTS", "METADATA", "MILESTONES", "REFRESH_TOKENS",
    "REGISTRATIONS", "SESSIONS", "SIGNING_KEYS", "THROTTLES",
]  # fmt: skip

METADATA = MetaData()

CREDENTIALS = Table(
    "credentials",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("email", Text, nullable=False, unique=True),
    Column("password_hash", Text),  # NULL: no password yet
    Column("state", Text, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("update_time", UtcTimestamp, nullable=False),
)
# Before a registration is a user it has no organization; the Users service gives it one.
REGISTRATIONS = Table(
    "registrations",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
)
SESSIONS = Table(
    "sessions",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("last_used_time", UtcTimestamp, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("rotate_time", UtcTimestamp, nullable=False),
    Column("expire_time", UtcTimestamp, nullable=False),
    Column("end_time", UtcTimestamp),
    Column("end_reason", Text, nullable=False),
    Index("sessions_user", "user_id"),
    Index("sessions_expire_time", "expire_time"),
)
REFRESH_TOKENS = Table(
    "refresh_tokens",
    METADATA,
    Column("hash", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("session", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("expire_time", UtcTimestamp, nullable=False),
    Index("refresh_tokens_expire_time", "expire_time"),
)
ACTION_TOKENS = Table(
    "action_tokens",
    METADATA,
    Column("hash", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("purpose", Text, nullable=False),  # password_reset, set_up
    Column("user_id", Text, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("expire_time", UtcTimestamp, nullable=False),
    Column("use_time", UtcTimestamp),
    Index("action_tokens_user", "user_id"),
    Index("action_tokens_expire_time", "expire_time"),
)
SIGNING_KEYS = Table(
    "signing_keys",
    METADATA,
    Column("kid", Text, primary_key=True),
    Column("private_key", Text, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("retire_time", UtcTimestamp),  # NULL: signs; else verifies until then
)
THROTTLES = Table(
    "throttles",
    METADATA,
    Column("key", Text, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("last_time", UtcTimestamp, nullable=False),
    Column("reported", Boolean, nullable=False),
    Index("throttles_last_time", "last_time"),
)
KNOWN_ADDRESSES = Table(
    "known_addresses",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("prefix", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("last_time", UtcTimestamp, nullable=False),
    Index("known_addresses_last_time", "last_time"),
)
MAIL_REQUESTS = Table(
    "mail_requests",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("template", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("due_time", UtcTimestamp, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("user_agent", Text, nullable=False),
    UniqueConstraint("template", "email", name="mail_requests_address"),
    Index("mail_requests_due_time", "due_time"),
)
MILESTONES = Table(
    "milestones",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("organization", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("time", UtcTimestamp, nullable=False),
)
add_event_tables(METADATA)

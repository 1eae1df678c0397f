"""The tables every service has beside its own: outbox, inbox, idempotency keys."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from taskman_server.kit.db import BigSerial, UtcTimestamp

_METADATA = sa.MetaData()

OUTBOX = sa.Table(
    "outbox",
    _METADATA,
    # The order of events is the order of their writes, not of their ids: an id is made before its transaction begins.
    sa.Column("sequence", BigSerial, primary_key=True, autoincrement=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("organization", sa.Text, nullable=False),
    sa.Column("envelope", sa.Text, nullable=False),
    sa.Column("create_time", UtcTimestamp, nullable=False),
)

INBOX = sa.Table(
    "inbox",
    _METADATA,
    sa.Column("consumer", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("time", UtcTimestamp, nullable=False),
    sqlite_with_rowid=False,
)

IDEMPOTENCY = sa.Table(
    "idempotency",
    _METADATA,
    sa.Column("scope", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("request_hash", sa.Text, nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
    sa.Column("create_time", UtcTimestamp, nullable=False),
    sa.Index("idempotency_create_time", "create_time"),
)


def add_event_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table, sa.Table]:
    """Put copies of outbox, inbox and idempotency into a service's metadata, which then describes all its tables."""
    return OUTBOX.to_metadata(metadata), INBOX.to_metadata(metadata), IDEMPOTENCY.to_metadata(metadata)


def create_event_tables(op: Any) -> None:
    """Make the tables, from a service's first migration: `create_event_tables(op)` with Alembic's `op`.

    It makes them as they stand in this version's first release; a later change is a migration of its own.
    """
    for table in (OUTBOX, INBOX, IDEMPOTENCY):
        table.create(op.get_bind())


def drop_event_tables(op: Any) -> None:
    """The way back from `create_event_tables`."""
    for table in (IDEMPOTENCY, INBOX, OUTBOX):
        op.drop_table(table.name)

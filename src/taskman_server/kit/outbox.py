"""A write and its event are one commit (EVENT-1): the outbox, its relay, and the tables beside it.

`Outbox.append` puts an event into the transaction of the change. The `Relay` publishes what was committed, in order,
and deletes a row only after the broker has confirmed it: a crash between the two publishes the event again under the
same id, and the consumer's inbox (`consumer`) drops it there.
"""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.consumer import Consumer, Handler, RejectEvent, Subscription
from taskman_server.kit.db import Statement, Transaction
from taskman_server.kit.event_tables import (
    IDEMPOTENCY,
    INBOX,
    OUTBOX,
    add_event_tables,
    create_event_tables,
    drop_event_tables,
)
from taskman_server.kit.events import BadEnvelope, Event
from taskman_server.kit.relay import Backlog, Relay

__all__ = [
    "IDEMPOTENCY",
    "IDEMPOTENCY_INSERT",
    "IDEMPOTENCY_PRUNE",
    "IDEMPOTENCY_SELECT",
    "INBOX",
    "OUTBOX",
    "Backlog",
    "BadEnvelope",
    "Consumer",
    "Event",
    "Handler",
    "Outbox",
    "RejectEvent",
    "Relay",
    "Subscription",
    "add_event_tables",
    "create_event_tables",
    "drop_event_tables",
]

IDEMPOTENCY_SELECT = Statement(
    sa.select(IDEMPOTENCY).where(IDEMPOTENCY.c.scope == bindparam("scope"), IDEMPOTENCY.c.key == bindparam("key"))
)
"""The record of a key: `scope`, `key`."""

IDEMPOTENCY_INSERT = Statement(sa.insert(IDEMPOTENCY))
"""Record an answer: `scope`, `key`, `method`, `request_hash`, `response` (bytes), `create_time`."""

IDEMPOTENCY_PRUNE = Statement(sa.delete(IDEMPOTENCY).where(IDEMPOTENCY.c.create_time < bindparam("before")))
"""Forget the records made `before` a time."""

_APPEND = Statement(
    sa.insert(OUTBOX).values(
        {name: bindparam(name) for name in ("id", "type", "key", "organization", "envelope", "create_time")}
    )
)


class Outbox:
    """Where a service puts its events."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Call `wake` (`Relay.wake`) after each commit that holds an event."""
        self._wake = wake

    async def append(self, tx: Transaction, event: Event) -> None:
        """Put `event` into the transaction of the change it tells of."""
        await tx.execute(
            _APPEND,
            id=event.id,
            type=event.name,
            key=event.key,
            organization=event.organization,
            envelope=event.to_json(),
            create_time=event.time,
        )
        tx.on_commit(self._wake)

"""A write and its event are one commit (EVENT-1): the outbox, its relay, and the tables beside it.

`Outbox.append` puts an event into the transaction of the change. The `Relay` publishes what was committed, in order,
and deletes a row only after the broker has confirmed it: a crash between the two publishes the event again under the
same id, and the consumer's inbox (`consumer`) drops it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.broker import Broker, BrokerError, Message, Unroutable
from taskman_server.kit.consumer import Consumer, Handler, RejectEvent, Subscription
from taskman_server.kit.db import Database, DatabaseError, Row, Statement, Transaction
from taskman_server.kit.event_tables import (
    IDEMPOTENCY,
    INBOX,
    OUTBOX,
    add_event_tables,
    create_event_tables,
    drop_event_tables,
)
from taskman_server.kit.events import BadEnvelope, Event

__all__ = [
    "IDEMPOTENCY",
    "IDEMPOTENCY_INSERT",
    "IDEMPOTENCY_PRUNE",
    "IDEMPOTENCY_SELECT",
    "INBOX",
    "OUTBOX",
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

_log = logging.getLogger(__name__)

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
_NEXT = Statement(
    sa.select(OUTBOX.c.sequence, OUTBOX.c.id, OUTBOX.c.type, OUTBOX.c.key, OUTBOX.c.envelope)
    .where(OUTBOX.c.sequence > bindparam("after"))
    .order_by(OUTBOX.c.sequence)
    .limit(bindparam("limit"))
)
_DELETE = Statement(sa.delete(OUTBOX).where(OUTBOX.c.sequence == bindparam("sequence")))
_COUNT = Statement(sa.select(sa.func.count().label("pending")).select_from(OUTBOX))


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


class Relay:
    """Carries a service's events from its outbox to the broker."""

    def __init__(
        self,
        db: Database,
        broker: Broker,
        *,
        batch: int = 128,
        backoff: float = 0.05,
        backoff_limit: float = 15.0,
        sweep: float = 5.0,
    ) -> None:
        """`backoff` seconds after the first failure, twice as long after each further one up to `backoff_limit`, with
        jitter; `sweep` is how often the table is looked at unasked, for what another process wrote."""
        self._db = db
        self._broker = broker
        self._batch = batch
        self._backoff = backoff
        self._backoff_limit = backoff_limit
        self._sweep = sweep
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._blocked: set[str] = set()
        self._failures = 0

    def wake(self) -> None:
        """There is something to publish."""
        self._wake.set()

    def start(self) -> None:
        """Begin; what a crash left in the outbox goes first."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="relay")

    async def stop(self) -> None:
        """End after the batch at work. What is left stays in the outbox and is published at the next start."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def pending(self) -> int:
        """How many events wait in the outbox."""
        row = await self._db.fetch_one(_COUNT)
        return int(row.pending) if row is not None else 0

    async def drain(self) -> None:
        """Publish what is in the outbox once through. Raises BrokerError or DatabaseError."""
        after = -1
        while not self._stopping.is_set():
            rows = await self._db.fetch_all(_NEXT, after=after, limit=self._batch)
            if not rows:
                return
            # A row can be seen a moment before it is on disk; an event must not outlive its write in a power cut.
            await self._db.settled()
            after = rows[-1].sequence
            await self._publish(rows)

    async def _publish(self, rows: Sequence[Row]) -> None:
        while rows := [row for row in rows if row.key not in self._blocked]:
            try:
                await self._broker.publish([Message(row.id, row.type, row.key, row.envelope) for row in rows])
            except Unroutable as error:
                # Later events of the same key wait with it: order is kept per key.
                self._blocked.update(row.key for row in rows if row.id in error.event_ids)
                _log.warning("the outbox keeps events that no queue is bound for: %s", error)
                continue
            async with self._db.transaction(durable=False) as tx:
                await tx.execute_many(_DELETE, [{"sequence": row.sequence} for row in rows])
            return

    async def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                await self.drain()
            except (BrokerError, DatabaseError) as error:
                _log.warning("events wait in the outbox: %s", error)
                await self._pause()
                continue
            except Exception as error:
                _log.error("the relay failed and tries again: %s", type(error).__name__)
                await self._pause()
                continue
            if not self._blocked:
                self._failures = 0
                await _wait(self._wake, self._sweep)
            elif not await _wait(self._wake, self._next_pause()):
                self._blocked.clear()

    async def _pause(self) -> None:
        await _wait(self._stopping, self._next_pause())

    def _next_pause(self) -> float:
        self._failures += 1
        top = min(self._backoff * 2 ** min(self._failures, 30), self._backoff_limit)
        return random.uniform(top / 2, top)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()

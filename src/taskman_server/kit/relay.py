"""The relay: carries a service's events from its outbox to the broker, in order (EVENT-1).

On a database that other processes write to as well (`Database.shared`) several relays are at work, one in each replica.
Each takes keys, not rows: it locks the oldest row of every key that nobody else has, publishes what follows under those
keys, and deletes it with the same commit. The order per key is kept, other keys flow at once, and a relay that dies
leaves its keys to the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence, Set
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.broker import Broker, BrokerError, Message, Unroutable
from taskman_server.kit.clock import Clock, SystemClock
from taskman_server.kit.db import Database, DatabaseError, Row, Statement
from taskman_server.kit.event_tables import OUTBOX

_log = logging.getLogger(__name__)

_COUNTED = 10_000
_WINDOW = 8

_ROW = (OUTBOX.c.sequence, OUTBOX.c.id, OUTBOX.c.type, OUTBOX.c.key, OUTBOX.c.envelope)
_NEXT = Statement(
    sa.select(*_ROW).where(OUTBOX.c.sequence > bindparam("after")).order_by(OUTBOX.c.sequence).limit(bindparam("limit"))
)
_DELETE = Statement(sa.delete(OUTBOX).where(OUTBOX.c.sequence == bindparam("sequence")))

# The window bounds the work when one key has a million rows.
_window = (
    sa.select(OUTBOX.c.sequence, OUTBOX.c.key)
    .where(OUTBOX.c.key.not_in(bindparam("blocked", expanding=True)))
    .order_by(OUTBOX.c.sequence)
    .limit(bindparam("window"))
    .subquery()
)
_TAKE_KEYS = Statement(
    sa.select(OUTBOX.c.sequence, OUTBOX.c.key)
    .where(OUTBOX.c.sequence.in_(sa.select(sa.func.min(_window.c.sequence)).group_by(_window.c.key)))
    .order_by(OUTBOX.c.sequence)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_OF_KEYS = Statement(
    sa.select(*_ROW)
    .where(
        OUTBOX.c.sequence.between(bindparam("first"), bindparam("last")),
        OUTBOX.c.key.in_(bindparam("keys", expanding=True)),
    )
    .order_by(OUTBOX.c.sequence)
    .limit(bindparam("limit"))
)
_DELETE_ALL = Statement(sa.delete(OUTBOX).where(OUTBOX.c.sequence.in_(bindparam("sequences", expanding=True))))

_COUNT = Statement(
    sa.select(sa.func.count().label("pending")).select_from(
        sa.select(OUTBOX.c.sequence).limit(bindparam("limit")).subquery()
    )
)
_OLDEST = Statement(sa.select(OUTBOX.c.create_time).order_by(OUTBOX.c.sequence).limit(1))


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in an outbox: how many `events` (counted up to 10,000), and for how long the first has waited."""

    events: int
    oldest_seconds: float


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
        pace: float = 0.05,
        clock: Clock | None = None,
    ) -> None:
        """`batch`: how many events are published together. `backoff` seconds after the first failure, twice as long
        after each further one up to `backoff_limit`, with jitter. `sweep` is how often the table is looked at unasked,
        for what another process wrote. Rounds begin `pace` seconds apart at least: an event that comes alone is
        published at once, and of many each round takes what has come, so that its cost, and the consumers', is shared.
        """
        self._db = db
        self._broker = broker
        self._batch = batch
        self._backoff = backoff
        self._backoff_limit = backoff_limit
        self._sweep = sweep
        self._pace = pace
        self._clock = clock or SystemClock()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._blocked: set[str] = set()
        self._unblock_at = 0.0
        self._failures = 0

    @property
    def blocked(self) -> Set[str]:
        """The keys whose events wait because nobody listens to the first of them."""
        return self._blocked

    def wake(self) -> None:
        """There is something to publish."""
        self._wake.set()

    def hurry(self) -> None:
        """Begin the next round without regard to the pace."""
        self._hurried.set()

    def start(self) -> None:
        """Begin; what a crash left in the outbox goes first."""
        if self._task is None:
            self._stopping.clear()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="relay")

    async def stop(self) -> None:
        """End after the batch at work. What is left stays in the outbox and is published at the next start."""
        self._stopping.set()
        self._wake.set()
        self._hurried.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def pending(self) -> int:
        """How many events wait in the outbox, counted up to 10,000."""
        row = await self._db.fetch_one(_COUNT, limit=_COUNTED)
        return int(row.pending) if row is not None else 0

    async def backlog(self) -> Backlog:
        """How many events wait and how long, cheap enough to ask every few seconds. Raises DatabaseError."""
        oldest = await self._db.fetch_one(_OLDEST)
        if oldest is None:
            return Backlog(0, 0.0)
        age = (self._clock.now() - oldest.create_time).total_seconds()
        return Backlog(await self.pending(), max(0.0, age))

    async def drain(self) -> None:
        """Publish what is in the outbox once through. Raises BrokerError or DatabaseError."""
        if self._db.shared:
            while not self._stopping.is_set() and await self._drain_keys():
                pass
            return
        after = -1
        while not self._stopping.is_set():
            rows = await self._db.fetch_all(_NEXT, after=after, limit=self._batch)
            if not rows:
                return
            # A row can be seen a moment before it is on disk; an event must not outlive its write in a power cut.
            await self._db.settled()
            after = rows[-1].sequence
            await self._publish(rows)
            if len(rows) < self._batch:
                return  # whoever commits an event after this wakes the relay

    async def _drain_keys(self) -> bool:
        """One batch of what no other relay has; whether there was one."""
        async with self._db.transaction(durable=False) as tx:
            heads = {
                row.key: int(row.sequence)
                for row in await tx.fetch_all(
                    _TAKE_KEYS, blocked=list(self._blocked), window=self._batch * _WINDOW, limit=self._batch
                )
            }
            if not heads:
                return False
            found = await tx.fetch_all(
                _OF_KEYS,
                keys=list(heads),
                first=min(heads.values()),
                last=max(heads.values()) + self._batch * _WINDOW,
                limit=self._batch,
            )
            # What became visible before a head since it was locked is another relay's.
            rows = [row for row in found if row.sequence >= heads[row.key]]
            published = await self._send(rows)
            if published:
                await tx.execute(_DELETE_ALL, sequences=[row.sequence for row in published])
            return bool(rows)

    async def _publish(self, rows: Sequence[Row]) -> None:
        published = await self._send(rows)
        if published:
            async with self._db.transaction(durable=False) as tx:
                await tx.execute_many(_DELETE, [{"sequence": row.sequence} for row in published])

    async def _send(self, rows: Sequence[Row]) -> list[Row]:
        """Publish the rows whose keys are not blocked, and block those that nobody listens to; what was published."""
        published: list[Row] = []
        while rows := [row for row in rows if row.key not in self._blocked]:
            try:
                await self._broker.publish([Message(row.id, row.type, row.key, row.envelope) for row in rows])
            except Unroutable as error:
                # Later events of the same key wait with it: order is kept per key.
                self._blocked.update(row.key for row in rows if row.id in error.event_ids)
                published += [row for row in rows if row.id in error.durable_ids]
                rows = [row for row in rows if row.id not in error.durable_ids]
                _log.warning("the outbox keeps events that no queue is bound for: %s", error)
            else:
                published += rows
                break
        return published

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            self._wake.clear()
            self._hurried.clear()
            next_round = loop.time() + self._pace
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
            else:
                await self._wait_for_listeners()
            if (early := next_round - loop.time()) > 0:
                await _wait(self._hurried, early)

    async def _wait_for_listeners(self) -> None:
        """Until there is more to publish, or it is time to try again what is blocked; whoever writes does not put that
        off."""
        now = asyncio.get_running_loop().time()
        if not self._unblock_at:
            self._unblock_at = now + self._next_pause()
        await _wait(self._wake, self._unblock_at - now)
        if asyncio.get_running_loop().time() >= self._unblock_at:
            self._blocked.clear()
            self._unblock_at = 0.0

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

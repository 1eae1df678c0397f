"""The broker of the embedded shape: RabbitMQ's contract on one SQLite file (EVENT-2).

One process owns the file. A message has a row per queue, which is the truth; what is in memory is the order of handing
out (`lanes`). The count of deliveries is written before a message is handed out, so that one that kills the process
reaches its limit too.

Where consumers wait and nothing else does, a message has no row at first: its publisher waits, and keeps it, until it
is acknowledged or has one (`handover`). So that first delivery is not counted if it kills the process. When the
publisher comes again after the restart, the message is older than the broker, and is given a row before it is handed
out: one that kills the process each time is delivered once more than its limit says.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Self

from taskman_server.kit.broker import (
    DELIVERY_LIMIT,
    BrokerError,
    DeadLetter,
    Deliveries,
    Message,
    QueueStats,
    UnknownQueue,
    Unroutable,
    check_declaration,
    store,
)
from taskman_server.kit.broker.handover import Handover
from taskman_server.kit.broker.lanes import Item
from taskman_server.kit.broker.ledger import Ledger
from taskman_server.kit.broker.queue import Pauses, Queue, QueueDeliveries, item_of, message_of, unavailable
from taskman_server.kit.broker.routing import exchange_of, exchanges_for, matches
from taskman_server.kit.clock import Clock, SystemClock
from taskman_server.kit.db import Database
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.events import ID_PREFIX, BadEnvelope, Event
from taskman_server.kit.ids import id_floor

_log = logging.getLogger(__name__)

_MILLISECOND = timedelta(milliseconds=1)  # what the time in an id is exact to
_TURN = 200  # rows written between two turns of the event loop


class EmbeddedBroker:
    """Implements `kit.broker.Broker`. Made by `open`."""

    def __init__(self, db: Database, *, clock: Clock, pauses: Pauses, grace: float, sequence: int) -> None:
        """Use `EmbeddedBroker.open`."""
        self._db = db
        self._ledger = Ledger(db)
        self._clock = clock
        self._pauses = pauses
        self._grace = grace
        self._sequence = sequence  # the last one that was used
        self._opened = id_floor(ID_PREFIX, datetime.now(UTC) + _MILLISECOND)  # by the clock that ids are made by
        self._queues: dict[str, Queue] = {}
        self._routes: dict[str, tuple[Queue, ...]] = {}
        self._listeners: dict[object, tuple[str, Callable[[Event], None]]] = {}

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        retry_pause: float = 0.2,
        retry_pause_limit: float = 30.0,
        sweep: float = 5.0,
        grace: float = 0.25,
    ) -> Self:
        """Open or create the broker's file; queues and messages of the last run are there.

        `retry_pause` seconds before the second delivery, twice as long before each further one up to
        `retry_pause_limit`, with jitter. `sweep`: seconds between two looks at the table unasked. `grace`: seconds for
        consumers to acknowledge what has no row yet.
        Raises BrokerUnavailable.
        """
        with unavailable():
            db = SqliteDatabase(path)
            pauses = Pauses(retry_pause, retry_pause_limit, sweep)
            await store.create(db)
            last = await db.fetch_one(store.LAST_SEQUENCE)
            broker = cls(
                db, clock=clock or SystemClock(), pauses=pauses, grace=grace, sequence=0 if last is None else last.seq
            )
            for row in await db.fetch_all(store.ALL_QUEUES):
                broker._queues[row.name] = broker._make(row.name, row.bindings, row.delivery_limit)
        return broker

    async def declare(self, queue: str, bindings: Sequence[str], *, delivery_limit: int = DELIVERY_LIMIT) -> None:
        """Make a durable queue, or change its bindings. Raises ValueError for a name or binding that is none."""
        check_declaration(queue, bindings, delivery_limit)
        known = self._queues.get(queue)
        if known is not None and (known.bindings, known.delivery_limit) == (tuple(bindings), delivery_limit):
            return
        with unavailable():
            await self._db.execute(store.PUT_QUEUE, name=queue, bindings=list(bindings), delivery_limit=delivery_limit)
        known = self._queues.get(queue)  # another call may have made it meanwhile
        if known is None:
            self._queues[queue] = self._make(queue, bindings, delivery_limit)
        else:
            known.bindings, known.delivery_limit = tuple(bindings), delivery_limit
        self._routes.clear()

    async def publish(self, messages: Sequence[Message]) -> None:
        """Into all bound queues of all messages; when one goes nowhere, none is published.

        A queue whose consumers wait is handed its messages without rows. Those that are not acknowledged within the
        grace, or that will be delivered again, are given theirs then, in one commit; until then they are the caller's.
        """
        routes = [(message, self._route(message.name)) for message in messages]
        if lost := [message for message, queues in routes if not queues]:
            raise Unroutable(lost)
        arriving: dict[Queue, list[Message]] = {}
        for message, queues in routes:
            for queue in queues:
                arriving.setdefault(queue, []).append(message)
        handover = self._hand_over(arriving)
        with unavailable():
            if arriving:
                await self._write(arriving)
            self._tell(messages)
            if not await handover.settled(self._grace):
                await self._write_left(handover)

    def _hand_over(self, arriving: dict[Queue, list[Message]]) -> Handover:
        """Hands over what needs no row for now, and takes it out of what arrives."""
        handover = Handover()
        # Of one that was made before this broker was opened it is not known whether it was delivered: it is counted in
        # its row. One of the future is of a time before the clock was set back.
        now = id_floor(ID_PREFIX, datetime.now(UTC) + _MILLISECOND)
        for queue, messages in list(arriving.items()):
            # Some may be here twice, or have been handed over by a publication that was cut off.
            new = []
            for message in {message.id: message for message in messages}.values():
                if (item := queue.unwritten.get(message.id)) is not None:
                    handover.add(queue, item)
                else:
                    new.append(message)
            if not new:
                del arriving[queue]
            elif queue.takes(len(new)) and all(self._opened <= message.id < now for message in new):
                del arriving[queue]
                items = [self._item(message) for message in new]
                for item in items:
                    handover.add(queue, item)
                queue.hand_over(items)
            else:
                arriving[queue] = new
        return handover

    async def _write(self, arriving: Mapping[Queue, Sequence[Message]]) -> None:
        """Gives messages their rows, in one commit."""
        now, turn = self._clock.now(), 0
        async with self._db.transaction() as tx:
            for queue, messages in arriving.items():
                items = []
                for message in messages:
                    item = self._item(message)
                    if await tx.execute(store.PUT_MESSAGE, **store.message_row(queue.name, item, now)):
                        items.append(item)
                        queue.coming = item.sequence
                    if (turn := turn + 1) % _TURN == 0:
                        await asyncio.sleep(0)
                if items:
                    tx.on_commit(partial(queue.arrived, items))

    async def _write_left(self, handover: Handover) -> None:
        """Gives a row to what stays of a publication."""
        now = self._clock.now()
        written = []
        try:
            async with self._db.transaction() as tx:
                for queue, item in list(handover.left.values()):
                    await tx.execute(store.PUT_MESSAGE, **store.message_row(queue.name, item, now))
                    # From here on it is counted and acknowledged in its row, and nobody does that before the commit.
                    queue.done(item)
                    written.append((queue, item))
        except BaseException:
            for queue, item in written:
                handover.add(queue, item)
                queue.unwritten[item.message.id] = item
            raise

    def _item(self, message: Message, *, redriven: bool = False) -> Item:
        self._sequence += 1
        return Item(self._sequence, message, 0, redriven)

    @asynccontextmanager
    async def _consume(self, queue: Queue, prefetch: int) -> AsyncIterator[Deliveries]:
        deliveries = QueueDeliveries(queue, prefetch)
        queue.consumers.add(deliveries)
        try:
            yield deliveries
        finally:
            queue.consumers.discard(deliveries)
            await deliveries.close()

    def consume(self, queue: str, *, prefetch: int = 64) -> AbstractAsyncContextManager[Deliveries]:
        """Take deliveries from a queue."""
        return self._consume(self._queue(queue), prefetch)

    def listen(self, pattern: str, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back for each event published by this process. Raises ValueError for a bad pattern."""
        exchanges_for(pattern)
        token = object()
        self._listeners[token] = (pattern, callback)

        def stop() -> None:
            self._listeners.pop(token, None)

        return stop

    async def stats(self) -> dict[str, QueueStats]:
        """Every queue's figures."""
        with unavailable():
            await self._ledger.settled()
            live = {row.queue: row for row in await self._db.fetch_all(store.COUNT_MESSAGES)}
            dead = {row.queue: row.total for row in await self._db.fetch_all(store.COUNT_DEAD)}
        answer = {}
        for name, queue in self._queues.items():
            unsettled = len(queue.lanes.unsettled)
            total = (live[name].total if name in live else 0) + len(queue.unwritten)
            answer[name] = QueueStats(
                ready=max(0, total - unsettled),
                unsettled=unsettled,
                dead=dead.get(name, 0),
                consumers=len(queue.consumers),
                oldest=live[name].oldest if name in live else None,
            )
        return answer

    async def peek(self, queue: str, *, limit: int = 20) -> list[Message]:
        """The oldest messages; nothing changes."""
        found = self._queue(queue)
        with unavailable():
            await self._ledger.settled()
            rows = await self._db.fetch_all(store.NEXT, queue=found.name, after=0, limit=limit)
        items = [*map(item_of, rows), *found.unwritten.values()]
        return [item.message for item in sorted(items, key=lambda item: item.sequence)[:limit]]

    async def dead_letters(self, queue: str, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest messages given up."""
        with unavailable():
            rows = await self._db.fetch_all(store.DEAD_LETTERS, queue=self._queue(queue).name, limit=limit)
        return [DeadLetter(message_of(row), row.queue, row.attempts, row.reason, row.time) for row in rows]

    async def redrive(self, queue: str, event_ids: Sequence[str] | None = None) -> int:
        """Send messages given up to the end of the queue."""
        found = self._queue(queue)
        now = self._clock.now()
        with unavailable():
            async with self._db.transaction() as tx:
                rows = await tx.fetch_all(
                    store.TAKE_DEAD, queue=queue, ids=None if event_ids is None else list(event_ids)
                )
                rows.sort(key=lambda row: int(row.sequence))
                items = [self._item(message_of(row), redriven=True) for row in rows]
                await tx.execute_many(store.PUT_MESSAGE, [store.message_row(queue, item, now) for item in items])
                found.coming = items[-1].sequence if items else found.coming
                tx.on_commit(found.look)
        return len(rows)

    async def purge(self, queue: str, *, dead: bool = False) -> int:
        """Forget messages. Those at work are left to their consumer."""
        found = self._queue(queue)
        with unavailable():
            if dead:
                return await self._db.execute(store.PURGE_DEAD, queue=queue)
            async with found.loading:
                await self._ledger.settled()
                async with self._db.transaction() as tx:
                    count = await tx.execute(store.PURGE, queue=queue, but=list(found.lanes.unsettled))
                    count += found.clear()  # before anybody gives one of them a row
        return count

    async def delete(self, queue: str) -> None:
        """Remove a queue with all its messages."""
        found = self._queue(queue)
        if found.consumers:
            raise BrokerError(f"queue {queue} has consumers: stop them first")
        with unavailable():
            await self._ledger.settled()
            async with self._db.transaction() as tx:
                await tx.execute(store.PURGE, queue=queue, but=[])
                await tx.execute(store.PURGE_DEAD, queue=queue)
                await tx.execute(store.DELETE_QUEUE, name=queue)
        found.clear()
        del self._queues[queue]
        self._routes.clear()

    async def close(self) -> None:
        """End the consumers, give back what they hold, and close the file."""
        for queue in self._queues.values():
            await queue.close()
        try:
            with unavailable():
                await self._ledger.settled()
        finally:
            with unavailable():
                await self._db.close()

    def _make(self, name: str, bindings: Sequence[str], delivery_limit: int) -> Queue:
        return Queue(
            self._db,
            self._ledger,
            self._clock,
            self._pauses,
            name=name,
            bindings=bindings,
            delivery_limit=delivery_limit,
        )

    def _queue(self, name: str) -> Queue:
        queue = self._queues.get(name)
        if queue is None:
            raise UnknownQueue(name)
        return queue

    def _route(self, name: str) -> tuple[Queue, ...]:
        queues = self._routes.get(name)
        if queues is None:
            # A pattern's first word decides its exchange and the name's decides where it is published, so that a
            # match of the whole name is a match on the right exchange.
            known = exchange_of(name) is not None
            queues = tuple(
                queue
                for queue in self._queues.values()
                if known and any(matches(pattern, name) for pattern in queue.bindings)
            )
            if known:
                self._routes[name] = queues
        return queues

    def _tell(self, messages: Sequence[Message]) -> None:
        for message in messages if self._listeners else ():
            heard = [callback for pattern, callback in list(self._listeners.values()) if matches(pattern, message.name)]
            if not heard:
                continue
            try:
                event = message.event()
            except BadEnvelope:
                continue
            for callback in heard:
                try:
                    callback(event)
                except Exception as error:
                    _log.error("a listener failed on %s: %s", message.name, type(error).__name__)

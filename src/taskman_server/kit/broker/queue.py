"""One queue of the embedded broker, and its consumers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from taskman_server.kit.broker import BrokerUnavailable, Delivery, Message, store
from taskman_server.kit.broker.lanes import Item, Lanes
from taskman_server.kit.broker.ledger import Ledger
from taskman_server.kit.clock import Clock
from taskman_server.kit.db import Database, DatabaseError, Row

_log = logging.getLogger(__name__)

_PAGE = 256


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds: `retry` before the second delivery, doubled for each further one up to `retry_limit`, with jitter;
    `sweep` between two looks at the table unasked."""

    retry: float
    retry_limit: float
    sweep: float


class Queue:
    """A queue's settings, and what of it is in memory."""

    def __init__(
        self,
        db: Database,
        ledger: Ledger,
        clock: Clock,
        pauses: Pauses,
        *,
        name: str,
        bindings: Sequence[str],
        delivery_limit: int,
    ) -> None:
        """The queue `name` as the table of queues has it."""
        self.db = db
        self.ledger = ledger
        self.clock = clock
        self.pauses = pauses
        self.name = name
        self.bindings = tuple(bindings)
        self.delivery_limit = delivery_limit
        self.lanes = Lanes()
        self.more = True  # the table may hold messages after the cursor
        self.loading = asyncio.Lock()
        self.consumers: set[QueueDeliveries] = set()
        self.unwritten: dict[str, Item] = {}  # by event id: handed over without a row
        self.coming = 0  # the last sequence that the table was given, be it committed by now or not
        self._cursor = 0
        self._timers: set[asyncio.TimerHandle] = set()

    def takes(self, number: int) -> bool:
        """Whether so many messages may be handed to its consumers without rows: no others have any, or will have."""
        unread = self.more or self.loading.locked() or self.coming > self._cursor
        rows = unread or self.lanes.held > len(self.unwritten)
        return bool(self.consumers) and not rows and self.lanes.held + number <= _PAGE

    def hand_over(self, items: Sequence[Item]) -> None:
        """Messages without a row; see `takes`."""
        self.unwritten.update((item.message.id, item) for item in items)
        self.lanes.add(items)
        self._cursor = items[-1].sequence
        self.wake()

    def done(self, item: Item) -> bool:
        """Whether a message that is done with, or has been put elsewhere, had no row."""
        if item.handover is None:
            return False
        del self.unwritten[item.message.id]
        item.handover.remove(item)
        return True

    def clear(self) -> int:
        """Forget what is in memory and not at work; how many of those had no row."""
        waiting = [item for item in self.unwritten.values() if item.sequence not in self.lanes.unsettled]
        for item in waiting:
            self.done(item)
        self.lanes.clear()
        return len(waiting)

    def arrived(self, items: Sequence[Item]) -> None:
        """The table has these since a commit; to be told in the order of the commits. They are handed out without
        being read from it, unless others are to be read first, many wait already, or nobody listens."""
        if self.more or self.loading.locked() or not self.consumers or self.lanes.held + len(items) > _PAGE:
            self.more = True
        else:
            # A load has seen those up to the cursor, before they were on disk.
            self.lanes.add(item for item in items if item.sequence > self._cursor)
            self._cursor = max(self._cursor, items[-1].sequence)
        self.wake()

    def look(self) -> None:
        """The table has new messages."""
        self.more = True
        self.wake()

    def wake(self) -> None:
        """Something changed: consumers look again."""
        for consumer in self.consumers:
            consumer.wake()

    async def load(self) -> None:
        """Bring the next messages into memory."""
        async with self.loading:
            if not self.more or self.lanes.ready:
                return
            self.more = False  # before the read: a publish meanwhile sets it again
            try:
                rows = await self.db.fetch_all(store.NEXT, queue=self.name, after=self._cursor, limit=_PAGE)
                items = [item_of(row) for row in rows]
                for item in items:
                    if item.attempts >= self.delivery_limit:
                        reason = f"delivered {item.attempts} times and never settled: the consumer ended each time"
                        await self.bury(item, reason)
            except BaseException:
                self.more = True
                raise
            if rows:
                self.more = self.more or len(rows) == _PAGE
                self._cursor = rows[-1].sequence
            self.lanes.add(item for item in items if item.attempts < self.delivery_limit)

    async def bury(self, item: Item, reason: str) -> None:
        """Move a message to the dead-letter queue."""
        with item.handover.moving(item) if item.handover is not None else contextlib.nullcontext():
            async with self.db.transaction() as tx:
                await tx.execute(store.PUT_DEAD, **store.dead_row(self.name, item, reason, self.clock.now()))
                await tx.execute(store.DELETE_MESSAGES, sequences=[item.sequence])
            self.unwritten.pop(item.message.id, None)
        _log.warning("%s gave up %s (%s): %s", self.name, item.message.id, item.message.name, reason)

    def resume_later(self, item: Item) -> None:
        """Let a lane go on after the pause that its head's attempts ask for."""
        top = min(self.pauses.retry * 2 ** min(item.attempts - 1, 30), self.pauses.retry_limit)

        def resume() -> None:
            self._timers.discard(timer)
            self.lanes.resume(item.key)
            self.wake()

        timer = asyncio.get_running_loop().call_later(random.uniform(top / 2, top), resume)
        self._timers.add(timer)

    async def close(self) -> None:
        """End the consumers and give back what they hold."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        for consumer in list(self.consumers):
            await consumer.close()


class QueueDeliveries:
    """One consumer of a queue. Implements `kit.broker.Deliveries`."""

    def __init__(self, queue: Queue, prefetch: int) -> None:
        self._ledger = queue.ledger
        self._queue = queue
        self._prefetch = prefetch
        self._wake = asyncio.Event()
        self._mine: dict[int, Item] = {}
        self._closed = False

    def wake(self) -> None:
        """Look again."""
        self._wake.set()

    def __aiter__(self) -> QueueDeliveries:
        return self

    async def __anext__(self) -> list[Delivery]:
        while not self._closed:
            self._wake.clear()
            with unavailable():
                if self._queue.more and not self._queue.lanes.ready:
                    await self._queue.load()
                batch = self._queue.lanes.take(self._prefetch - len(self._mine))
                if batch:
                    return await self._hand_out(batch)
            if self._queue.more and len(self._mine) < self._prefetch:
                continue  # everything loaded was parked behind its lane
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the wake.
                async with asyncio.timeout(self._queue.pauses.sweep):
                    await self._wake.wait()
            except TimeoutError:
                self._queue.more = True
                self._ledger.again()
        raise StopAsyncIteration

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Forget them. Not waited for: after a crash they can come again, and the inbox drops them."""
        items = self._take_back(deliveries)
        if not items:
            return
        if written := [item.sequence for item in items if not self._queue.done(item)]:
            self._ledger.forget(written)
        for item in items:
            self._queue.lanes.settle(item.sequence)
        self._queue.wake()

    async def retry(self, delivery: Delivery, reason: str) -> None:
        """Deliver again later, or give up at the limit."""
        if delivery.attempt >= self._queue.delivery_limit:
            await self.reject(delivery, f"failed {delivery.attempt} times, the last time: {reason}")
            return
        for item in self._take_back([delivery]):
            self._queue.lanes.put_back(item.sequence, wait=True)
            self._queue.resume_later(item)
            self._stays(item)
        self._queue.wake()

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move it to the dead-letter queue now."""
        for item in self._take_back([delivery]):
            try:
                with unavailable():
                    await self._queue.bury(item, reason)
            except BaseException:
                self._put_back([item])
                raise
            self._queue.lanes.settle(item.sequence)
        self._queue.wake()

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Give them back untried."""
        items = self._take_back(deliveries)
        if not items:
            return
        for item in items:
            item.attempts -= 1
        try:
            with unavailable():
                await self._ledger.uncount([item.sequence for item in items if item.handover is None])
        finally:
            self._put_back(items)

    async def close(self) -> None:
        """Give back what is not settled and end the iteration."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        held = [self._delivery(item) for item in self._mine.values()]
        with contextlib.suppress(BrokerUnavailable):
            await self.release(held)

    async def _hand_out(self, batch: list[Item]) -> list[Delivery]:
        # Those without a row are counted first: the row they may be given meanwhile has it.
        written = [item.sequence for item in batch if item.handover is None]
        for item in batch:
            item.attempts += 1
        if written:
            try:
                await self._ledger.count(written)
            except BaseException:
                for item in batch:
                    item.attempts -= 1
                self._put_back(batch)
                raise
        self._mine.update((item.sequence, item) for item in batch)
        return [self._delivery(item) for item in batch]

    def _delivery(self, item: Item) -> Delivery:
        return Delivery(item.message, self._queue.name, item.attempts, item.redriven, item.sequence)

    def _take_back(self, deliveries: Sequence[Delivery]) -> list[Item]:
        return [item for delivery in deliveries if (item := self._mine.pop(delivery.tag, None)) is not None]

    def _put_back(self, items: Sequence[Item]) -> None:
        for item in reversed(items):  # each goes to the front
            self._queue.lanes.put_back(item.sequence, wait=False)
            self._stays(item)
        self._queue.wake()

    @staticmethod
    def _stays(item: Item) -> None:
        if item.handover is not None:
            item.handover.hurry()


def message_of(row: Row) -> Message:
    """The message in a row of `messages` or `dead_letters`."""
    return Message(row.event_id, row.name, row.key, row.body)


def item_of(row: Row) -> Item:
    """The message and its place in a row of `messages`."""
    return Item(row.sequence, message_of(row), row.attempts, row.redriven)


@contextlib.contextmanager
def unavailable() -> Iterator[None]:
    """A database error inside is the broker's."""
    try:
        yield
    except DatabaseError as error:
        raise BrokerUnavailable(f"the broker cannot work: {error}") from None

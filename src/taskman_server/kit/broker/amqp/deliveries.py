"""One consumer of a queue on RabbitMQ.

The order is the queue's, kept by its single active consumer and, in this process, by `lanes`: a message that is tried
again stays here unacknowledged, and the later ones of its key wait behind it while the others flow.

RabbitMQ counts a delivery when a message comes back unacknowledged, whether or not anybody looked at it. So that a
message which kills the process does not use up the attempts of those that were fetched together with it, a consumer
comes as a pair: the first takes one message at a time; when that one has never been delivered before (those that came
back stand in front of it) it leaves, and the second, next in the queue's row of consumers, takes many.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from aiormq.exceptions import ChannelLockedResource

from taskman_server.kit.broker import BrokerUnavailable, Delivery, Message
from taskman_server.kit.broker.amqp import wire as codec
from taskman_server.kit.broker.amqp.link import Link, forgiving, shut, unavailable
from taskman_server.kit.broker.lanes import Item, Lanes
from taskman_server.kit.broker.queue import Pauses

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel
    from aiormq.abc import AbstractChannel as Wire
    from aiormq.abc import DeliveredMessage

_log = logging.getLogger(__name__)

_AHEAD = 4
"""How many times the prefetch is fetched: later ones of a key that waits stand in the way of other keys' otherwise."""

Bury = Callable[[str, Message, str, int], Awaitable[None]]
Observe = Callable[[str, str, int], None]


class RabbitDeliveries:
    """Implements `kit.broker.Deliveries`. Made by `RabbitBroker.consume`."""

    def __init__(
        self,
        link: Link,
        queue: str,
        physical: str,
        *,
        prefetch: int,
        delivery_limit: int,
        pauses: Pauses,
        bury: Bury,
        observe: Observe,
        timeout: float,
    ) -> None:
        """`physical` is the queue's name on the broker; `bury` makes a message durable in the dead-letter queue."""
        self._link = link
        self._queue = queue
        self._physical = physical
        self._prefetch = prefetch
        self._limit = delivery_limit
        self._pauses = pauses
        self._bury = bury
        self._observe = observe
        self._timeout = timeout
        self._lanes = Lanes()
        self._mine: dict[int, Item] = {}
        self._held: set[int] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._wake = asyncio.Event()
        self._channel: AbstractChannel | None = None
        self._wire: Wire | None = None
        # RabbitMQ takes messages back from a lost channel in the order of its consumers' names.
        name = uuid4().hex
        self._careful = f"{name}.1"
        self._full = f"{name}.2" if prefetch > 1 else ""
        self._alone = True
        self._failing = False
        self._lost = ""
        self._closed = False

    @property
    def at_work(self) -> int:
        """How many messages are handed out and not settled."""
        return len(self._mine)

    @property
    def ahead(self) -> int:
        """How many RabbitMQ has sent that are not handed out."""
        return len(self._held) - len(self._mine)

    async def forget(self) -> int:
        """Done with what is not handed out, unseen; how many. Raises BrokerUnavailable."""
        tags = self._held - self._mine.keys()
        with unavailable(self._link.where):
            for tag in sorted(tags):
                await self._usable().basic_ack(tag, wait=False)
        self._held -= tags
        self._lanes.clear()
        return len(tags)

    async def open(self) -> None:
        """Begin to consume. Raises BrokerUnavailable."""
        channel, wire = await self._link.open_channel()
        self._channel, self._wire = channel, wire
        try:
            with unavailable(self._link.where):
                async with asyncio.timeout(self._timeout), _turn(self._link, f"{self._physical}.joining"):
                    wire.closing.add_done_callback(lambda _: self._lose("the channel was closed"))
                    wire.on_consumer_cancel_callbacks.add(lambda _: self._lose("the queue was deleted or moved"))
                    await wire.basic_qos(prefetch_count=1)
                    await wire.basic_consume(self._physical, self._arrived, consumer_tag=self._careful)
                    if self._full:
                        # One less: what the first of the pair took may be at work still.
                        await wire.basic_qos(prefetch_count=self._prefetch * _AHEAD - 1)
                        await wire.basic_consume(self._physical, self._arrived, consumer_tag=self._full)
        except BaseException:
            await self.close()
            raise

    def __aiter__(self) -> RabbitDeliveries:
        return self

    async def __anext__(self) -> list[Delivery]:
        while not self._closed:
            self._wake.clear()
            if self._lost:
                raise BrokerUnavailable(f"{self._queue} is not consumed any more: {self._lost}")
            batch = self._lanes.take(self._prefetch - len(self._mine))
            if not batch:
                await self._wake.wait()
                continue
            if self._exhausted(batch[0]):
                await self._give_up(
                    batch[0], f"delivered {batch[0].attempts} times and never settled: the consumer ended each time"
                )
                continue
            if not batch[0].attempts:
                await self._take_many()
            for item in batch:
                item.attempts += 1
                self._mine[item.sequence] = item
            self._observe("delivered", self._queue, len(batch))
            return [self._delivery(item) for item in batch]
        raise StopAsyncIteration

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Done. What is lost of it on the way comes again."""
        items = self._take_back(deliveries)
        await self._settle(items)

    async def retry(self, delivery: Delivery, reason: str) -> None:
        """Hand out again later, from here; or give up at the limit.

        The count of these tries is lost with the process; RabbitMQ counts that as one delivery.
        """
        if delivery.attempt >= self._limit:
            await self.reject(delivery, f"failed {delivery.attempt} times, the last time: {reason}")
            return
        for item in self._take_back([delivery]):
            self._lanes.put_back(item.sequence, wait=True)
            self._resume_later(item)
            self._observe("retried", self._queue, 1)
        self._failing = True
        self._wake.set()
        # It did not kill the process: the others need not wait for it.
        await self._take_many()

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move it to the dead-letter queue now: durable there first, then taken from here."""
        for item in self._take_back([delivery]):
            try:
                await self._give_up(item, reason)
            except BaseException:
                self._put_back([item])
                raise

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Hand out again from here, uncounted. When this consumer closes, RabbitMQ counts what it gives back."""
        items = self._take_back(deliveries)
        for item in items:
            item.attempts -= 1
        self._put_back(items)

    async def close(self) -> None:
        """Give back what is not settled and end the iteration."""
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self._mine.clear()
        self._held.clear()
        channel, self._channel, self._wire = self._channel, None, None
        if channel is not None:
            # Not cancelled first: another consumer would take over before it has these messages.
            await shut(channel, self._timeout)

    async def _arrived(self, raw: DeliveredMessage) -> None:
        if self._closed:
            return
        item = codec.decode_item(raw)
        if raw.consumer_tag == self._full:
            if not item.attempts:
                self._failing = False
            elif not self._failing:
                # Another consumer ended and left these: one at a time then.
                self._lose("messages came back while it took many; it begins again, one at a time")
        self._held.add(item.sequence)
        self._lanes.add([item])
        self._wake.set()

    def _lose(self, why: str) -> None:
        if not self._closed and not self._lost:
            self._lost = why
            self._wake.set()

    async def _take_many(self) -> None:
        if not self._alone or not self._full:
            return
        self._alone = False
        with unavailable(self._link.where):
            async with asyncio.timeout(self._timeout):
                await self._usable().basic_cancel(self._careful)

    def _exhausted(self, item: Item) -> bool:
        return item.attempts >= self._limit

    async def _give_up(self, item: Item, reason: str) -> None:
        await self._bury(self._queue, item.message, reason, item.attempts)
        _log.warning("%s gave up %s (%s): %s", self._queue, item.message.id, item.message.name, reason)
        self._observe("dead", self._queue, 1)
        await self._settle([item])

    async def _settle(self, items: Sequence[Item]) -> None:
        if not items:
            return
        tags = {item.sequence for item in items}
        last = max(tags)
        with unavailable(self._link.where):
            wire = self._usable()
            if all(tag in tags for tag in self._held if tag <= last):
                await wire.basic_ack(last, multiple=True, wait=False)
            else:
                for tag in sorted(tags):
                    await wire.basic_ack(tag, wait=False)
        self._held -= tags
        for item in items:
            self._lanes.settle(item.sequence)
        self._wake.set()

    def _usable(self) -> Wire:
        if self._wire is None or self._wire.is_closed:
            raise BrokerUnavailable(f"{self._queue} is not consumed any more: its messages come again")
        return self._wire

    def _resume_later(self, item: Item) -> None:
        top = min(self._pauses.retry * 2 ** min(item.attempts - 1, 30), self._pauses.retry_limit)

        def resume() -> None:
            self._timers.discard(timer)
            self._lanes.resume(item.key)
            self._wake.set()

        timer = asyncio.get_running_loop().call_later(random.uniform(top / 2, top), resume)
        self._timers.add(timer)

    def _delivery(self, item: Item) -> Delivery:
        return Delivery(item.message, self._queue, item.attempts, item.redriven, item.sequence)

    def _take_back(self, deliveries: Sequence[Delivery]) -> list[Item]:
        return [item for delivery in deliveries if (item := self._mine.pop(delivery.tag, None)) is not None]

    def _put_back(self, items: Sequence[Item]) -> None:
        for item in reversed(items):  # each goes to the front
            self._lanes.put_back(item.sequence, wait=False)
        self._wake.set()


@asynccontextmanager
async def _turn(link: Link, name: str) -> AsyncIterator[None]:
    """Nobody else, in any process, is inside with the same name: nothing may come between the two of a pair."""
    async with link.joining:
        while True:
            async with link.channel() as wire:
                try:
                    await wire.queue_declare(name, exclusive=True)
                except ChannelLockedResource:
                    held = False
                else:
                    held = True
                    try:
                        yield
                    finally:
                        with forgiving():
                            await wire.queue_delete(name)
            if held:
                return
            await asyncio.sleep(random.uniform(0.005, 0.03))

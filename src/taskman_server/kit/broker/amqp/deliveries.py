"""One consumer of a queue on RabbitMQ.

The order is the queue's, kept by its single active consumer and, in this process, by `lanes`: a message that is tried
again stays here unacknowledged, and the later ones of its key wait behind it while the others flow. RabbitMQ gives what
a lost consumer held to the next one in its order, as long as that one fetches all of it at once: every consumer fetches
the same number, whatever it hands out.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from taskman_server.kit.broker import BrokerUnavailable, Delivery, Message
from taskman_server.kit.broker.amqp import wire as codec
from taskman_server.kit.broker.amqp.attempts import Attempts
from taskman_server.kit.broker.amqp.link import Link, shut, unavailable
from taskman_server.kit.broker.lanes import Item, Lanes
from taskman_server.kit.broker.queue import Pauses

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel
    from aiormq.abc import AbstractChannel as Wire
    from aiormq.abc import DeliveredMessage

_log = logging.getLogger(__name__)

WINDOW = 256
"""How many messages a consumer fetches. Later ones of a key that waits stand in it, and not in other keys' way."""

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
        attempts: Attempts,
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
        self._attempts = attempts
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
                async with asyncio.timeout(self._timeout):
                    wire.closing.add_done_callback(lambda _: self._lose("the channel was closed"))
                    wire.on_consumer_cancel_callbacks.add(lambda _: self._lose("the queue was deleted or moved"))
                    await wire.basic_qos(prefetch_count=max(WINDOW, self._prefetch))
                    await wire.basic_consume(self._physical, self._arrived)
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
            try:
                if batch[0].attempts and not await self._may_try(batch[0]):
                    continue
            except BaseException:
                self._put_back(batch)
                raise
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
        """Hand out again later, from here; or give up at the limit."""
        if delivery.attempt >= self._limit:
            await self.reject(delivery, f"failed {delivery.attempt} times, the last time: {reason}")
            return
        for item in self._take_back([delivery]):
            self._lanes.put_back(item.sequence, wait=True)
            self._resume_later(item)
            self._observe("retried", self._queue, 1)
        self._wake.set()

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move it to the dead-letter queue now: durable there first, then taken from here."""
        for item in self._take_back([delivery]):
            try:
                await self._give_up(item, reason)
            except BaseException:
                self._put_back([item])
                raise

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Hand out again from here, uncounted. What is given back when this consumer closes counts as delivered once,
        however often that happens before it is handed out alone."""
        items = self._take_back(deliveries)
        for item in items:
            item.attempts -= 1
            self._attempts.correct(item.message.id, item.attempts)
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
        await self._attempts.close()

    async def _arrived(self, raw: DeliveredMessage) -> None:
        if self._closed:
            return
        item = codec.decode_item(raw)
        self._held.add(item.sequence)
        self._lanes.add([item])
        self._wake.set()

    def _lose(self, why: str) -> None:
        if not self._closed and not self._lost:
            self._lost = why
            self._wake.set()

    async def _may_try(self, item: Item) -> bool:
        """Whether a message that was delivered before is to be handed out; its attempt is durable then."""
        item.attempts = max(item.attempts, await self._attempts.known(item.message.id))
        if item.attempts >= self._limit:
            why = f"delivered {item.attempts} times and never settled: the consumer ended each time"
            await self._give_up(item, why)
            return False
        await self._attempts.note(item.message.id, item.attempts + 1)
        return True

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
            if item.attempts > 1:
                await self._attempts.settle(item.message.id)
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

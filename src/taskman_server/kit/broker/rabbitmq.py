"""The broker of the cluster shape: RabbitMQ, 3.10 or later (EVENT-2).

What differs from `embedded`, because RabbitMQ cannot do it:

- An event that is published again after a lost confirm is in a queue twice; the consumer's inbox drops it.
- When the last queue that listened to a name goes, events that follow one of that name under its key, in the same
  batch, are out before it is known.
- A message that a consumer held when it closed has been delivered once, tried or not.
- What waits in a queue is shown to its consumer only: `peek` needs a queue without one, and counts as a delivery.
- `stats` knows the queues that this process declared or consumed, what is unsettled in this process, and not how old a
  message is. What a consumer of another process holds (256 at most) is in no figure.
- The delivery limit of a queue cannot change: `declare` raises TopologyMismatch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence, Set
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from aio_pika.exceptions import ChannelNotFoundEntity

from taskman_server.kit.broker import (
    DELIVERY_LIMIT,
    BrokerError,
    BrokerUnavailable,
    DeadLetter,
    Deliveries,
    Message,
    QueueStats,
    UnknownQueue,
    Unroutable,
    check_declaration,
)
from taskman_server.kit.broker.amqp import dead, topology
from taskman_server.kit.broker.amqp import wire as codec
from taskman_server.kit.broker.amqp.attempts import Attempts
from taskman_server.kit.broker.amqp.deliveries import Observe, RabbitDeliveries
from taskman_server.kit.broker.amqp.link import Link, quiet, unavailable
from taskman_server.kit.broker.amqp.listener import Listener
from taskman_server.kit.broker.amqp.publisher import Outgoing, Publisher
from taskman_server.kit.broker.queue import Pauses
from taskman_server.kit.broker.routing import exchange_of
from taskman_server.kit.clock import Clock, SystemClock
from taskman_server.kit.events import Event

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""How long the next message of a queue may take to come before it is taken for somebody else's."""


class RabbitBroker:
    """Implements `kit.broker.Broker`. Made by `open`."""

    def __init__(
        self, url: str, *, prefix: str, name: str, timeout: float, pauses: Pauses, clock: Clock, observe: Observe | None
    ) -> None:
        """Use `RabbitBroker.open`."""
        # RabbitMQ stops reading from a connection that publishes while it is short of memory; acks must go on.
        self._sending = Link(url, f"{name} publish", timeout=timeout)
        self._taking = Link(url, f"{name} consume", timeout=timeout)
        self._names = topology.Names(prefix)
        self._timeout = timeout
        self._pauses = pauses
        self._clock = clock
        self._observe = observe or (lambda what, queue, number: None)
        self._publisher = Publisher(self._sending, self._names, timeout=timeout)
        self._listener = Listener(self._taking, self._names, timeout=timeout)
        self._declared: dict[str, tuple[tuple[str, ...], int]] = {}
        self._declaring = asyncio.Lock()
        self._heard: set[str] = set()
        self._consumers: dict[str, set[RabbitDeliveries]] = {}

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        prefix: str = "",
        name: str = "taskman",
        timeout: float = 5.0,
        retry_pause: float = 0.2,
        retry_pause_limit: float = 30.0,
        clock: Clock | None = None,
        observe: Observe | None = None,
    ) -> Self:
        """Connect to `amqp://user:password@host:port/vhost` (`amqps` for TLS).

        `prefix` stands before the names of exchanges and queues, for several installations on one virtual host. `name`
        is what RabbitMQ's tools show. No call takes much longer than `timeout` seconds while the broker is away; it
        connects again by itself. `retry_pause` and `retry_pause_limit` as in `embedded`. `observe(what, queue,
        number)` is told of messages `published`, `confirmed`, `returned` (queue empty), `delivered`, `retried` and
        `dead`.

        Raises BrokerUnavailable.
        """
        quiet()
        pauses = Pauses(retry_pause, retry_pause_limit, 0)
        broker = cls(
            url,
            prefix=prefix,
            name=name,
            timeout=timeout,
            pauses=pauses,
            clock=clock or SystemClock(),
            observe=observe,
        )
        await broker._sending.connection()
        return broker

    @property
    def connected(self) -> bool:
        """Whether events can be published now."""
        return self._sending.connected

    @property
    def listening(self) -> bool:
        """Whether every listener hears what is published now."""
        return self._listener.ready

    async def declare(self, queue: str, bindings: Sequence[str], *, delivery_limit: int = DELIVERY_LIMIT) -> None:
        """Make a durable queue or check it, and change its bindings.

        The last to declare it decides its bindings. Raises TopologyMismatch, and ValueError for a name or binding that
        is none.
        """
        check_declaration(queue, bindings, delivery_limit)
        async with self._declaring, self._sending.channel(confirms=True) as wire:
            with unavailable(self._sending.where):
                async with asyncio.timeout(self._timeout * 2):
                    await topology.declare_queue(
                        wire, self._names, queue, bindings, delivery_limit, self._sending.version
                    )
        self._declared[queue] = (tuple(bindings), delivery_limit)

    async def publish(self, messages: Sequence[Message]) -> None:
        """Return when all are confirmed by every bound queue.

        They are sent at once, but for those whose key has an earlier event of a name that this process has never had
        confirmed: they wait until it is known whether somebody listens.
        """
        left: dict[str, Message] = {}
        lost: list[Message] = []
        stopped: set[str] = set()
        for message in messages:
            if exchange_of(message.name) is None:
                lost.append(message)
                stopped.add(message.key)
            elif message.key not in stopped:
                left.setdefault(message.id, message)
        durable: set[str] = set()
        stopped.clear()
        while wave := self._wave(left.values(), stopped):
            self._observe("published", "", len(wave))
            places = await self._publisher.publish([self._outgoing(message) for message in wave])
            for place, message in enumerate(wave):
                del left[message.id]
                if place in places:
                    lost.append(message)
                    stopped.add(message.key)
                    self._heard.discard(message.name)
                else:
                    durable.add(message.id)
                    self._heard.add(message.name)
            self._observe("confirmed", "", len(wave) - len(places))
        if lost:
            self._observe("returned", "", len(lost))
            raise Unroutable(lost, durable)

    def _wave(self, messages: Iterable[Message], stopped: Set[str]) -> list[Message]:
        """What can go next: per key all up to the first of a name that perhaps nobody listens to."""
        wave = []
        closed = set(stopped)
        for message in messages:
            if message.key not in closed:
                wave.append(message)
                if message.name not in self._heard:
                    closed.add(message.key)
        return wave

    def _outgoing(self, message: Message) -> Outgoing:
        exchange = exchange_of(message.name) or ""
        return Outgoing(self._names.exchange(exchange), message.name, codec.encode(message))

    @asynccontextmanager
    async def _consume(self, queue: str, prefetch: int) -> AsyncIterator[Deliveries]:
        limit = await self._present(queue)
        deliveries = RabbitDeliveries(
            self._taking,
            queue,
            self._names.queue(queue),
            prefetch=prefetch,
            delivery_limit=limit,
            pauses=self._pauses,
            attempts=Attempts(self._taking, self._publisher, self._names.attempts(queue), timeout=self._timeout),
            bury=self._bury,
            observe=self._observe,
            timeout=self._timeout,
        )
        await deliveries.open()
        mine = self._consumers.setdefault(queue, set())
        mine.add(deliveries)
        try:
            yield deliveries
        finally:
            mine.discard(deliveries)
            await deliveries.close()

    def consume(self, queue: str, *, prefetch: int = 64) -> AbstractAsyncContextManager[Deliveries]:
        """Take deliveries from a queue.

        Of several consumers, in any process, one at a time is given messages; when it ends the next one goes on. When
        the connection is lost, the iteration raises BrokerUnavailable: enter again.
        """
        return self._consume(queue, prefetch)

    def listen(self, pattern: str, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call back for each event published by any process. Begins a moment later, and pauses with the connection."""
        return self._listener.listen(pattern, callback)

    async def stats(self) -> dict[str, QueueStats]:
        """The figures of the queues that this process declared or consumed."""
        return await self.stats_of(list(dict.fromkeys((*self._declared, *self._consumers))))

    async def stats_of(self, queues: Sequence[str]) -> dict[str, QueueStats]:
        """The figures of these queues; those that nobody declared are left out.

        Connects where the connection was lost, for no queue too. Raises BrokerUnavailable.
        """
        await self._sending.connection()
        answer: dict[str, QueueStats] = {}
        left = list(queues)
        while left:
            async with self._sending.channel() as wire:
                with unavailable(self._sending.where):
                    async with asyncio.timeout(self._timeout):
                        while left:
                            queue = left.pop(0)
                            try:
                                ready, consumers = await dead.counts(wire, self._names.queue(queue), queue)
                                given_up, _ = await dead.counts(wire, self._names.dead(queue), queue)
                            except UnknownQueue:
                                break  # RabbitMQ has closed the channel
                            mine = self._consumers.get(queue, set())
                            ready += sum(each.ahead for each in mine)
                            answer[queue] = QueueStats(
                                ready, sum(each.at_work for each in mine), given_up, consumers, None
                            )
        return answer

    async def peek(self, queue: str, *, limit: int = 20) -> list[Message]:
        """The oldest messages, of the first 256, of a queue without consumers; it counts as a delivery.

        Raises BrokerError while it has consumers.
        """
        return await dead.peek(self._taking, self._names, queue, limit, _LOOK_SECONDS)

    async def dead_letters(self, queue: str, *, limit: int = 100) -> list[DeadLetter]:
        """The oldest messages given up, of the first 10,000; without those that somebody else looks at just now."""
        return await dead.dead_letters(self._taking, self._names, queue, limit, _LOOK_SECONDS)

    async def redrive(self, queue: str, event_ids: Sequence[str] | None = None) -> int:
        """Send messages given up to the end of the queue, 10,000 at most; without those that are looked at just now."""
        return await dead.redrive(self._taking, self._publisher, self._names, queue, event_ids, _LOOK_SECONDS)

    async def purge(self, queue: str, *, dead: bool = False) -> int:
        """Forget the messages that wait. What consumers of other processes hold, at work or ahead, is left to them."""
        name = self._names.dead(queue) if dead else self._names.queue(queue)
        async with self._sending.channel() as wire:
            with unavailable(self._sending.where):
                try:
                    count = (await wire.queue_purge(name)).message_count or 0
                except ChannelNotFoundEntity:
                    raise UnknownQueue(queue) from None
        if not dead:
            for each in self._consumers.get(queue, ()):
                count += await each.forget()
        return count

    async def delete(self, queue: str) -> None:
        """Remove a queue with all its messages, dead letters too."""
        async with self._sending.channel() as wire:
            with unavailable(self._sending.where):
                if await dead.consumers_left(wire, self._names.queue(queue), queue):
                    raise BrokerError(f"queue {queue} has consumers: stop them first")
                names = self._names
                for name in (names.queue(queue), names.dead(queue), names.attempts(queue), names.bindings(queue)):
                    await wire.queue_delete(name)
        self._declared.pop(queue, None)

    async def close(self) -> None:
        """End the consumers, give back what they hold, and close the connections."""
        await self._listener.close()
        for consumers in self._consumers.values():
            for consumer in list(consumers):
                await consumer.close()
        await self._publisher.close()
        await self._taking.close()
        await self._sending.close()

    async def _present(self, queue: str) -> int:
        """The queue's delivery limit, as far as it was declared here. Raises UnknownQueue."""
        if queue in self._declared:
            bindings, limit = self._declared[queue]
            # A broker that came back empty gets its queues again.
            await self.declare(queue, bindings, delivery_limit=limit)
            return limit
        async with self._taking.channel() as wire:
            with unavailable(self._taking.where):
                await dead.counts(wire, self._names.queue(queue), queue)
        return DELIVERY_LIMIT

    async def _bury(self, queue: str, message: Message, reason: str, attempts: int) -> None:
        letter = codec.encode_dead(message, reason, attempts, self._clock.now())
        if await self._publisher.publish([Outgoing("", self._names.dead(queue), letter)]):
            raise BrokerUnavailable(f"queue {queue} has no dead-letter queue any more: start its consumer again")

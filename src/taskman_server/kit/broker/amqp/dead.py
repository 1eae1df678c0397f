"""Dead-letter queues: looking, sending back. What is looked at stays in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aio_pika.exceptions import ChannelNotFoundEntity

from taskman_server.kit.broker import BrokerError, BrokerUnavailable, DeadLetter, Message, UnknownQueue
from taskman_server.kit.broker.amqp import wire as codec
from taskman_server.kit.broker.amqp.link import Link, unavailable
from taskman_server.kit.broker.amqp.publisher import Outgoing, Publisher
from taskman_server.kit.broker.amqp.topology import Names

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel as Wire
    from aiormq.abc import DeliveredMessage

_PAGE = 256
_LOOKS = 10


async def counts(wire: Wire, name: str, queue: str) -> tuple[int, int]:
    """Messages that wait and consumers of the queue `name` on the broker. Raises UnknownQueue(queue)."""
    try:
        answer = await wire.queue_declare(name, passive=True)
    except ChannelNotFoundEntity:
        raise UnknownQueue(queue) from None
    return answer.message_count or 0, answer.consumer_count or 0


async def consumers_left(wire: Wire, name: str, queue: str) -> int:
    """Consumers of a queue; RabbitMQ hears a moment later that one has closed. Raises UnknownQueue(queue)."""
    for _ in range(_LOOKS):
        _, consumers = await counts(wire, name, queue)
        if not consumers:
            break
        await asyncio.sleep(0.02)
    return consumers


async def dead_letters(link: Link, names: Names, queue: str, limit: int) -> list[DeadLetter]:
    """The oldest messages given up, at most `limit`."""
    letters: list[DeadLetter] = []
    async with link.channel() as wire:
        with unavailable(link.where):
            await counts(wire, names.queue(queue), queue)
            while len(letters) < limit:
                raw = await wire.basic_get(names.dead(queue))
                if not raw.delivery_tag:
                    break
                letters.append(codec.decode_dead(raw, queue))
    return letters


async def redrive(link: Link, publisher: Publisher, names: Names, queue: str, event_ids: Sequence[str] | None) -> int:
    """Send back all, or these: in the queue first, then taken away, so that a crash in between makes a duplicate."""
    chosen = None if event_ids is None else set(event_ids)
    total = 0
    async with link.channel() as wire:
        with unavailable(link.where):
            await counts(wire, names.queue(queue), queue)
            left, _ = await counts(wire, names.dead(queue), queue)
        while left > 0:
            page: dict[str, list[DeliveredMessage]] = {}
            with unavailable(link.where):
                while left > 0 and len(page) < _PAGE:
                    raw = await wire.basic_get(names.dead(queue))
                    if not raw.delivery_tag:
                        left = 0
                        break
                    left -= 1
                    identifier = str(raw.header.properties.message_id or "")
                    if chosen is None or identifier in chosen:
                        page.setdefault(identifier, []).append(raw)
            if not page:
                continue
            batch = [
                Outgoing("", names.queue(queue), codec.encode_redriven(codec.decode(raws[0]))) for raws in page.values()
            ]
            if await publisher.publish(batch):
                raise UnknownQueue(queue)
            with unavailable(link.where):
                for raws in page.values():
                    for raw in raws:
                        await wire.basic_ack(raw.delivery_tag or 0, wait=False)
            total += len(page)
    return total


async def peek(link: Link, names: Names, queue: str, limit: int, timeout: float) -> list[Message]:
    """The oldest messages of a queue that has no consumer."""
    messages: list[Message] = []
    enough = asyncio.Event()
    async with link.channel() as wire:
        with unavailable(link.where):
            if await consumers_left(wire, names.queue(queue), queue):
                raise BrokerError(
                    f"queue {queue} has a consumer, and RabbitMQ shows what waits to that one only:"
                    " stop it to look, or look at the dead-letter queue"
                )
            ready, _ = await counts(wire, names.queue(queue), queue)
            wanted = min(ready, limit)

            async def arrived(raw: DeliveredMessage) -> None:
                if len(messages) < wanted:
                    messages.append(codec.decode(raw))
                if len(messages) == wanted:
                    enough.set()

            if wanted:
                await wire.basic_qos(prefetch_count=wanted)
                await wire.basic_consume(names.queue(queue), arrived)
                try:
                    async with asyncio.timeout(timeout):
                        await enough.wait()
                except TimeoutError:
                    raise BrokerUnavailable(f"queue {queue}: {wanted} messages wait and do not come") from None
    return messages

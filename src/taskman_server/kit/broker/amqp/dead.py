"""Dead-letter queues: looking, sending back. What is looked at stays in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from aio_pika.exceptions import ChannelNotFoundEntity

from taskman_server.kit.broker import BrokerError, DeadLetter, Message, UnknownQueue
from taskman_server.kit.broker.amqp import wire as codec
from taskman_server.kit.broker.amqp.deliveries import WINDOW
from taskman_server.kit.broker.amqp.link import Link, unavailable
from taskman_server.kit.broker.amqp.publisher import Outgoing, Publisher
from taskman_server.kit.broker.amqp.topology import Names

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel as Wire
    from aiormq.abc import DeliveredMessage

_T = TypeVar("_T")

_MOST = 10_000
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


async def dead_letters(link: Link, names: Names, queue: str, limit: int, timeout: float) -> list[DeadLetter]:
    """The oldest messages given up, at most `limit`."""
    async with link.channel() as wire:
        letters = await _given_up(link, wire, names, queue, timeout)
    await _returned(link, names.dead(queue), queue, len(letters))
    return [letter for letter, _ in letters][:limit]


async def redrive(
    link: Link, publisher: Publisher, names: Names, queue: str, event_ids: Sequence[str] | None, timeout: float
) -> int:
    """Send back all, or these: in the queue first, then taken away, so that a crash in between makes a duplicate."""
    chosen = None if event_ids is None else set(event_ids)
    total = 0
    async with link.channel() as wire:
        found: dict[str, list[tuple[Message, int]]] = {}
        letters = await _given_up(link, wire, names, queue, timeout)
        for letter, tag in letters:
            if chosen is None or letter.message.id in chosen:
                found.setdefault(letter.message.id, []).append((letter.message, tag))
        for page in _pages(list(found.values())):
            messages = [copies[0][0] for copies in page]
            batch = [Outgoing("", names.queue(queue), codec.encode_redriven(message)) for message in messages]
            if await publisher.publish(batch):
                raise UnknownQueue(queue)
            with unavailable(link.where):
                for copies in page:
                    for _, tag in copies:
                        await wire.basic_ack(tag, wait=False)
            total += len(page)
    left = len(letters) - sum(len(copies) for copies in found.values())
    await _returned(link, names.dead(queue), queue, left)
    return total


async def peek(link: Link, names: Names, queue: str, limit: int, timeout: float) -> list[Message]:
    """The oldest messages of a queue that has no consumer."""
    async with link.channel() as wire:
        with unavailable(link.where):
            if await consumers_left(wire, names.queue(queue), queue):
                raise BrokerError(
                    f"queue {queue} has a consumer, and RabbitMQ shows what waits to that one only:"
                    " stop it to look, or look at the dead-letter queue"
                )
            ready, _ = await counts(wire, names.queue(queue), queue)
        # Never less than a consumer fetches: RabbitMQ would take it back behind what came back before.
        raws = await _fetch(link, wire, names.queue(queue), min(ready, WINDOW), timeout)
    await _returned(link, names.queue(queue), queue, len(raws))
    return [codec.decode(raw) for raw in raws[:limit]]


async def _given_up(link: Link, wire: Wire, names: Names, queue: str, timeout: float) -> list[tuple[DeadLetter, int]]:
    """The dead letters of a queue with their delivery tags, in the order in which they were given up."""
    with unavailable(link.where):
        await counts(wire, names.queue(queue), queue)
        waiting, _ = await counts(wire, names.dead(queue), queue)
    raws = await _fetch(link, wire, names.dead(queue), min(waiting, _MOST), timeout)
    letters = [(codec.decode_dead(raw, queue), raw.delivery_tag or 0) for raw in raws]
    # Looking at some of them has RabbitMQ take these back behind the others.
    return sorted(letters, key=lambda letter: letter[0].time)


async def _returned(link: Link, name: str, queue: str, number: int) -> None:
    """Wait a moment for what was looked at to be back: the next look is to find it."""
    if not number:
        return
    async with link.channel() as wire:
        with unavailable(link.where):
            for _ in range(_LOOKS):
                if (await counts(wire, name, queue))[0] >= number:
                    break
                await asyncio.sleep(0.02)


async def _fetch(link: Link, wire: Wire, name: str, wanted: int, timeout: float) -> list[DeliveredMessage]:
    """So many messages of a queue; they go back to it with the channel."""
    raws: list[DeliveredMessage] = []
    more = asyncio.Event()

    async def arrived(raw: DeliveredMessage) -> None:
        if len(raws) < wanted:
            raws.append(raw)
            more.set()

    if not wanted:
        return raws
    with unavailable(link.where):
        await wire.basic_qos(prefetch_count=max(wanted, WINDOW))
        await wire.basic_consume(name, arrived)
        while len(raws) < wanted and not wire.is_closed:
            more.clear()
            try:
                async with asyncio.timeout(timeout):
                    await more.wait()
            except TimeoutError:
                break  # somebody else has the others
    return raws


def _pages(items: list[_T]) -> Iterator[list[_T]]:
    for start in range(0, len(items), _PAGE):
        yield items[start : start + _PAGE]

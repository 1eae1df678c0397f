"""Hears every event of a context at the broker, as often as it is published."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractQueue

__all__ = ["Spy", "spying"]


@dataclass(slots=True)
class Spy:
    """A queue of the test's own beside those of the services."""

    channel: AbstractChannel
    queue: AbstractQueue
    bodies: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Name and envelope of each event that was heard, by id."""

    async def heard(self, word: str) -> dict[str, int]:
        """How often each event with that word in it was published until now; asked once."""
        found: Counter[str] = Counter()
        while (message := await self.queue.get(no_ack=True, fail=False)) is not None:
            self.bodies[str(message.message_id)] = str(message.type), message.body.decode()
            if word in message.body.decode():
                found[f"{message.type} {message.message_id}"] += 1
        return dict(found)


@asynccontextmanager
async def spying(url: str, exchange: str) -> AsyncIterator[Spy]:
    """Listens at an exchange that is there."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(f"spy-{secrets.token_hex(4)}", exclusive=True)
        await queue.bind(exchange, "#")
        yield Spy(channel, queue)

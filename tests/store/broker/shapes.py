"""The two implementations of the broker's port, as the tests make them, and what their tests share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from taskman_server.kit.broker import Broker, Deliveries, Delivery, Message
from taskman_server.kit.broker.embedded import EmbeddedBroker
from taskman_server.kit.broker.rabbitmq import RabbitBroker
from tests.store.support import an_event


class Shape(Protocol):
    """One implementation with a place of its own; `restart` ends the process's part of it and begins again."""

    exact: bool
    """Whether a message that was held when its consumer ended has not been delivered once more in the count."""

    @property
    def broker(self) -> Broker: ...

    async def restart(self) -> Broker: ...

    async def listening(self) -> bool:
        """Whether listeners hear what is published now."""
        ...


class Embedded:
    """The embedded broker on a file."""

    broker: EmbeddedBroker
    exact = True

    def __init__(self, path: Path) -> None:
        self._path = path

    async def restart(self) -> Broker:
        if hasattr(self, "broker"):
            await self.broker.close()
        self.broker = await EmbeddedBroker.open(self._path, retry_pause=0.02, retry_pause_limit=0.1, sweep=0.2)
        return self.broker

    async def listening(self) -> bool:
        return True


class Rabbit:
    """RabbitMQ, with a virtual host of the test's own."""

    broker: RabbitBroker
    exact = False

    def __init__(self, url: str) -> None:
        self.url = url

    async def restart(self) -> Broker:
        if hasattr(self, "broker"):
            await self.broker.close()
        self.broker = await open_rabbit(self.url)
        return self.broker

    async def listening(self) -> bool:
        return self.broker.listening


async def open_rabbit(url: str) -> RabbitBroker:
    """A broker on RabbitMQ that tries again soon."""
    return await RabbitBroker.open(url, retry_pause=0.02, retry_pause_limit=0.1)


def messages(count: int, name: str = "task.created", key: str = "") -> list[Message]:
    return [Message.of(an_event(name, key or f"task_{number}")) for number in range(count)]


async def take(deliveries: Deliveries, count: int) -> list[Delivery]:
    """The next `count` deliveries."""
    taken: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(taken) < count:
            taken += await anext(aiter(deliveries))
    return taken


async def finish(deliveries: Deliveries, count: int) -> list[Delivery]:
    """The next `count` deliveries, each batch settled before the next."""
    taken: list[Delivery] = []
    while len(taken) < count:
        batch = await take(deliveries, 1)
        await deliveries.ack(batch)
        taken += batch
    return taken


def said(condition: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    """A plain condition for `until`."""

    async def answer() -> bool:
        return condition()

    return answer


def ids(items: Sequence[Delivery | Message]) -> list[str]:
    return [item.message.id if isinstance(item, Delivery) else item.id for item in items]

"""How often a message was handed out, when the process that it was handed to did not live to say so.

RabbitMQ counts for every message that a lost consumer held, tried or only fetched, and takes back one that is fetched
alone behind those that were fetched with it before, which would turn the order of its key. So a consumer always fetches
many, the ones that came back are handed out one by one, and before each of them is, a note of it is made durable in
`<queue>.attempts`: who is to blame for the end of a process can be read there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import aio_pika
from aio_pika import DeliveryMode

from taskman_server.kit.broker import BrokerUnavailable
from taskman_server.kit.broker.amqp.link import Link, shut, unavailable
from taskman_server.kit.broker.amqp.publisher import Outgoing, Publisher

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel
    from aiormq.abc import AbstractChannel as Wire


class Attempts:
    """The notes of one queue, held by the consumer that is active. They go back to the queue when it ends."""

    def __init__(self, link: Link, publisher: Publisher, queue: str, *, timeout: float) -> None:
        """`queue` is the name of the notes' queue on the broker."""
        self._link = link
        self._publisher = publisher
        self._queue = queue
        self._timeout = timeout
        self._channel: AbstractChannel | None = None
        self._wire: Wire | None = None
        self._known: dict[str, int] = {}
        self._noted: dict[str, int] = {}
        self._tags: dict[str, list[int]] = {}

    async def known(self, event_id: str) -> int:
        """The attempts that are noted; 0 for none. Raises BrokerUnavailable."""
        if self._wire is None:
            self._channel, self._wire = await self._link.open_channel()
            await self._absorb(self._wire)
        return self._known.get(event_id, 0)

    async def note(self, event_id: str, attempt: int) -> None:
        """Return when it is durable that this attempt begins. Raises BrokerUnavailable."""
        await self.known(event_id)
        self._known[event_id] = attempt
        if self._noted.get(event_id, 0) >= attempt:
            return
        message = aio_pika.Message(
            json.dumps([event_id, attempt]).encode(),
            delivery_mode=DeliveryMode.PERSISTENT,
            message_id=f"{event_id} {attempt}",
        )
        if await self._publisher.publish([Outgoing("", self._queue, message)]):
            raise BrokerUnavailable(f"queue {self._queue} is gone: start its consumer again")
        if self._wire is not None:
            await self._absorb(self._wire)

    def correct(self, event_id: str, attempts: int) -> None:
        """The last attempt was none: it is not counted, unless this process ends before the next."""
        if event_id in self._known:
            self._known[event_id] = attempts

    async def settle(self, event_id: str) -> None:
        """The message is done with."""
        tags = self._tags.pop(event_id, ())
        self._known.pop(event_id, None)
        self._noted.pop(event_id, None)
        if self._wire is not None:
            with unavailable(self._link.where):
                for tag in tags:
                    await self._wire.basic_ack(tag, wait=False)

    async def close(self) -> None:
        """Give the notes back."""
        channel, self._channel, self._wire = self._channel, None, None
        if channel is not None:
            await shut(channel, self._timeout)

    async def _absorb(self, wire: Wire) -> None:
        with unavailable(self._link.where):
            while (raw := await wire.basic_get(self._queue, timeout=self._timeout)).delivery_tag:
                try:
                    event_id, attempt = json.loads(raw.body)
                except (ValueError, TypeError):
                    continue
                self._known[event_id] = max(self._known.get(event_id, 0), int(attempt))
                self._noted[event_id] = max(self._noted.get(event_id, 0), int(attempt))
                self._tags.setdefault(event_id, []).append(raw.delivery_tag)

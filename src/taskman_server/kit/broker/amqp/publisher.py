"""Publishing with confirms: many at once, each known to be durable, returned or in doubt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError, PublishError

from taskman_server.kit.broker import BrokerUnavailable
from taskman_server.kit.broker.amqp.link import Link, shut, unavailable
from taskman_server.kit.broker.amqp.topology import Names, declare_exchanges

if TYPE_CHECKING:
    import aio_pika
    from aio_pika.abc import AbstractChannel
    from aiormq.channel import Channel as Wire

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way: `exchange` is empty for a queue's own name as the routing key."""

    exchange: str
    routing_key: str
    message: aio_pika.Message


class Publisher:
    """One channel that confirms. Batches take turns, so that an id is on its way once."""

    def __init__(self, link: Link, names: Names, *, timeout: float) -> None:
        """`timeout`: seconds until a batch without its confirms is in doubt."""
        self._link = link
        self._names = names
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._channel: AbstractChannel | None = None
        self._wire: Wire | None = None

    async def publish(self, batch: Sequence[Outgoing]) -> set[int]:
        """Return when all are confirmed or returned: the places in `batch` of those that no queue took.

        Two messages of a batch have different ids. Raises BrokerUnavailable when some are in doubt.
        """
        try:
            async with asyncio.timeout(self._timeout):
                await self._turn.acquire()
        except TimeoutError:
            raise BrokerUnavailable(f"{self._link.where} is busy: earlier messages wait for their confirms") from None
        try:
            async with asyncio.timeout(self._timeout):
                wire = await self._open()
                try:
                    with unavailable(self._link.where):
                        outcomes = await asyncio.gather(
                            *(self._send(wire, each) for each in batch), return_exceptions=True
                        )
                except BaseException:
                    await self._discard()
                    raise
        except TimeoutError:
            await self._link.lose()
            raise BrokerUnavailable(f"{self._link.where} did not confirm in {self._timeout:g} seconds") from None
        finally:
            self._turn.release()
        returned = set()
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, PublishError):
                returned.add(place)
            elif isinstance(outcome, DeliveryError):
                raise BrokerUnavailable(f"{self._link.where} refused a message: a queue is full or has no leader")
            elif isinstance(outcome, (*CONNECTION_EXCEPTIONS, asyncio.CancelledError)):
                await self._discard()
                with unavailable(self._link.where):
                    raise outcome
            elif isinstance(outcome, BaseException):
                raise outcome
        return returned

    async def close(self) -> None:
        """Close the channel; the link is closed by its owner."""
        await self._discard()

    async def _send(self, wire: Wire, each: Outgoing) -> None:
        await wire.basic_publish(
            each.message.body,
            exchange=each.exchange,
            routing_key=each.routing_key,
            properties=each.message.properties,
            mandatory=True,
            wait=False,
        )

    async def _open(self) -> Wire:
        if self._wire is not None and not self._wire.is_closed and self._link.connected:
            return self._wire
        await self._discard()
        channel, wire = await self._link.open_channel(confirms=True)
        try:
            with unavailable(self._link.where):
                await declare_exchanges(wire, self._names)
        except BaseException:
            await shut(channel, 1)
            raise
        self._channel, self._wire = channel, cast("Wire", wire)
        return self._wire

    async def _discard(self) -> None:
        channel, self._channel, self._wire = self._channel, None, None
        if channel is not None and self._link.connected:
            await shut(channel, 1)

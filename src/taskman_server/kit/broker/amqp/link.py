"""Connections to RabbitMQ that are made when needed, and made again after they were lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import aio_pika
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.exceptions import InvalidFrameError, ProbableAuthenticationError
from yarl import URL

from taskman_server.kit.broker import BrokerUnavailable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection
    from aiormq.abc import AbstractChannel as Wire

HEARTBEAT = 10
"""Seconds. A connection whose other end vanished without a word is given up after three of them."""

_BACKOFF = (0.1, 2.0)


class Link:
    """One connection. A call while it is away fails within `timeout` seconds, and at once for a moment after that."""

    def __init__(self, url: str, name: str, *, timeout: float) -> None:
        """`name` is what RabbitMQ's tools show."""
        self._url = URL(url).update_query({"heartbeat": HEARTBEAT})
        self._name = name
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()
        self._closed = False
        self._failures = 0
        self._retry_at = 0.0
        self._problem = ""

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        connection = self._connection
        transport = connection.transport if connection is not None else None
        return transport is not None and transport.connection.is_opened

    async def connection(self) -> AbstractConnection:
        """The connection. Raises BrokerUnavailable."""
        async with self._lock:
            if self._closed:
                raise BrokerUnavailable("the broker is closed")
            if self._connection is not None and self.connected:
                return self._connection
            now = asyncio.get_running_loop().time()
            if now < self._retry_at:
                raise BrokerUnavailable(self._problem)
            await self._drop()
            try:
                with unavailable(self.where):
                    self._connection = await aio_pika.connect(
                        self._url, timeout=self._timeout, client_properties={"connection_name": self._name}
                    )
            except BrokerUnavailable as error:
                self._problem = str(error)
                self._failures += 1
                pause = min(_BACKOFF[0] * 2 ** min(self._failures - 1, 10), _BACKOFF[1])
                self._retry_at = asyncio.get_running_loop().time() + pause
                raise
            self._failures = 0
            return self._connection

    @property
    def where(self) -> str:
        """The address, without name and password."""
        return f"RabbitMQ at {self._url.host}:{self._url.port or 5672}"

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version; empty while there is no connection."""
        if self._connection is None or self._connection.transport is None:
            return ()
        text = str((self._connection.transport.connection.server_properties or {}).get("version", ""))
        return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())

    async def open_channel(self, *, confirms: bool = False) -> tuple[AbstractChannel, Wire]:
        """A channel of its own, and its wire level. Raises BrokerUnavailable."""
        connection = await self.connection()
        with unavailable(self.where):
            async with asyncio.timeout(self._timeout):
                channel = connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
                await channel.initialize()
                return channel, await channel.get_underlay_channel()

    @contextlib.asynccontextmanager
    async def channel(self, *, confirms: bool = False) -> AsyncIterator[Wire]:
        """A channel for a few calls. What it took and did not settle goes back at the end."""
        channel, wire = await self.open_channel(confirms=confirms)
        try:
            yield wire
        finally:
            await shut(channel, self._timeout)

    async def lose(self) -> None:
        """Give the connection up: it does not answer any more."""
        async with self._lock:
            await self._drop()

    async def close(self) -> None:
        """Close for good."""
        async with self._lock:
            self._closed = True
            await self._drop()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with forgiving():
                async with asyncio.timeout(self._timeout):
                    await connection.close()


async def shut(channel: AbstractChannel, timeout: float) -> None:
    """Close a channel, if it still can be."""
    if channel.is_closed:
        return
    with forgiving():
        async with asyncio.timeout(timeout):
            await channel.close()


def quiet() -> None:
    """Leave it to us to tell of a lost connection: the client library writes tracebacks."""
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def unavailable(where: str) -> Iterator[None]:
    """What the client library raises inside is a BrokerUnavailable."""
    before = _cancellations()
    try:
        yield
    except (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.CancelledError) as error:
        _hear_cancellation(before)
        raise BrokerUnavailable(f"{where} {_brief(error)}") from None
    _hear_cancellation(before)


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """What the client library raises inside does not matter any more."""
    before = _cancellations()
    try:
        yield
    except (*CONNECTION_EXCEPTIONS, TimeoutError, asyncio.CancelledError):
        pass
    _hear_cancellation(before)


def _cancellations() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _hear_cancellation(before: int) -> None:
    # The library cancels whatever waits on a channel that closes; and when somebody cancels us in the same moment, it
    # raises another error, or none. A task that was being cancelled before may still clean up.
    if _cancellations() > before:
        raise asyncio.CancelledError


def _brief(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, asyncio.CancelledError):
        return "closed the channel"
    if isinstance(error, ProbableAuthenticationError):
        return "refuses the user or the password: check the broker URL"
    if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):  # all that the library tells of it
        return (
            "refuses the virtual host of the broker URL: make it (rabbitmqctl add_vhost), or let the user in "
            "(rabbitmqctl set_permissions)"
        )
    return f"does not answer: {type(error).__name__} {error}"[:200].strip()

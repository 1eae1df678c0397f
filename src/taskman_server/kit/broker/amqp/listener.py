"""Events for caches: a queue of this process alone, gone with its connection. Best effort."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from taskman_server.kit.broker import BrokerError
from taskman_server.kit.broker.amqp import wire as codec
from taskman_server.kit.broker.amqp.link import Link, shut, unavailable
from taskman_server.kit.broker.amqp.topology import Names, declare_exchanges
from taskman_server.kit.broker.routing import exchanges_for, matches
from taskman_server.kit.events import BadEnvelope, Event

if TYPE_CHECKING:
    from aiormq.abc import AbstractChannel as Wire
    from aiormq.abc import DeliveredMessage

_log = logging.getLogger(__name__)

_PAUSE = 1.0


class Listener:
    """All that listens in one process. What is published while its connection is away is not heard."""

    def __init__(self, link: Link, names: Names, *, timeout: float) -> None:
        self._link = link
        self._names = names
        self._timeout = timeout
        self._callbacks: dict[object, tuple[str, Callable[[Event], None]]] = {}
        self._bound: set[str] = set()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every pattern is heard."""
        return {pattern for pattern, _ in self._callbacks.values()} <= self._bound

    def listen(self, pattern: str, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Begin in the background. Raises ValueError for a bad pattern."""
        exchanges_for(pattern)
        token = object()
        self._callbacks[token] = (pattern, callback)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="listen")

        def stop() -> None:
            self._callbacks.pop(token, None)

        return stop

    async def close(self) -> None:
        """End it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._hear()
            except BrokerError as error:
                _log.warning("changes of other processes are not heard: %s", error)
            except Exception as error:
                _log.error("listening failed and starts again: %s", type(error).__name__)
            self._bound.clear()
            await asyncio.sleep(_PAUSE)

    async def _hear(self) -> None:
        channel, wire = await self._link.open_channel()
        try:
            wire.closing.add_done_callback(lambda _: self._changed.set())
            with unavailable(self._link.where):
                await declare_exchanges(wire, self._names)
                queue = str((await wire.queue_declare(exclusive=True, auto_delete=True)).queue)
                await wire.basic_consume(queue, self._arrived, no_ack=True)
            while True:
                self._changed.clear()
                with unavailable(self._link.where):
                    await self._bind(wire, queue)
                await self._changed.wait()
        finally:
            await shut(channel, self._timeout)

    async def _bind(self, wire: Wire, queue: str) -> None:
        for pattern, _ in list(self._callbacks.values()):
            if pattern not in self._bound:
                for exchange in exchanges_for(pattern):
                    await wire.queue_bind(queue, self._names.exchange(exchange), pattern)
                self._bound.add(pattern)
        if wire.is_closed:
            raise ConnectionError("the channel was closed")

    async def _arrived(self, raw: DeliveredMessage) -> None:
        message = codec.decode(raw)
        heard = [callback for pattern, callback in list(self._callbacks.values()) if matches(pattern, message.name)]
        if not heard:
            return
        try:
            event = message.event()
        except BadEnvelope:
            return
        for callback in heard:
            try:
                callback(event)
            except Exception as error:
                _log.error("a listener failed on %s: %s", message.name, type(error).__name__)

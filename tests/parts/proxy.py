"""A network that fails on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.parts.servers import Port

__all__ = ["TcpProxy"]

T = TypeVar("T")
_CHUNK = 65536
_AHEAD = 64  # chunks on the way


class TcpProxy:
    """Hands on every connection to a server, as long as it is let. Runs in a thread of its own.

    It refuses connections while it is cut, and while the server refuses them.
    """

    def __init__(self, target: str) -> None:
        """Args:
        target: a URL with a port, or `host:port`.
        """
        parts = urlsplit(target if "://" in target else f"tcp://{target}")
        assert parts.hostname, f"no host in {target!r}"
        assert parts.port, f"no port in {target!r}"
        self._target = (parts.hostname, parts.port)
        self._reserved = Port()
        self.port = self._reserved.number
        there = parts.netloc.rpartition("@")[2]
        self.url = target.replace(there, f"127.0.0.1:{self.port}", 1)
        """The target's address with the proxy's host and port."""
        self._seconds = 0.0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of {there}", daemon=True)
        self._thread.start()
        self.heal()

    @property
    def connections(self) -> int:
        """How many connections go through it now."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Resets all connections and refuses new ones."""
        self._do(self._cut())

    def freeze(self) -> None:
        """Nothing goes through any more, but nobody is told: connections stay, new ones are accepted and silent."""
        self._do(self._set_flows(False))

    def heal(self) -> None:
        """Everything goes through again."""
        self._do(self._heal())

    def delay(self, seconds: float) -> None:
        """From now on everything arrives so much later, in each direction. 0: as fast as it can."""
        self._seconds = seconds

    def close(self) -> None:
        """Ends it with all its connections."""
        if self._loop.is_closed():
            return
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _set_flows(self, on: bool) -> None:
        if on:
            self._flows.set()
        else:
            self._flows.clear()

    async def _heal(self) -> None:
        self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(
                self._accept, "127.0.0.1", self.port, reuse_address=True, backlog=1024
            )

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            _reset(writer)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _close(self) -> None:
        await self._cut()
        await asyncio.sleep(0)  # transports close in the next turn

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        far = None
        try:
            far_reader, far = await asyncio.open_connection(*self._target)
            self._writers.add(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far))
                both.create_task(self._pump(far_reader, writer))
        except* OSError:
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    _reset(end) if far is None else end.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction: what arrives waits for its time, and so does the end."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_AHEAD)

        async def arrive() -> None:
            while True:
                due, data = await on_the_way.get()
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                await self._flows.wait()
                if not data:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(arrive())
            while True:
                data = await reader.read(_CHUNK)
                await on_the_way.put((self._loop.time() + self._seconds, data))
                if not data:
                    break


def _reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection as a broken network does: with RST, without a farewell."""
    end = writer.get_extra_info("socket")
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

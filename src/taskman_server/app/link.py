"""The line between the first process of a server and one of its workers: a socket pair, JSON messages with a length.

Both sides tell and ask. When one of them dies the other one notices at once: the kernel closes the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Self

__all__ = ["Answers", "Link", "LinkLost"]

Answers = Mapping[str, Callable[[Any], Awaitable[Any]]]
"""What a side answers, by name: the value that was sent to the answer, both fit for JSON."""

_HEAD: Final = struct.Struct("!I")


class LinkLost(Exception):
    """The other side is gone."""


class Link:
    """One end of the line. Made by `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Answers) -> None:
        """Use `Link.open`."""
        self._reader = reader
        self._writer = writer
        self._answers = answers
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._at_work: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, end: socket.socket, answers: Answers, lost: Callable[[], None]) -> Self:
        """Takes one end of a socket pair.

        Args:
            end: the socket, from now on the link's.
            answers: what this side answers.
            lost: called when the other side has gone, unless this one has closed the link.
        """
        reader, writer = await asyncio.open_unix_connection(sock=end)
        link = cls(reader, writer, answers)
        link._reading = asyncio.create_task(link._read(lost), name="link")
        return link

    def tell(self, name: str, value: Any = None) -> None:
        """Sends without waiting; nothing happens when the other side is gone."""
        self._send(0, name, value)

    async def ask(self, name: str, value: Any = None, *, seconds: float = 5.0) -> Any:
        """Sends and waits for the answer.

        Raises:
            LinkLost: the other side is gone.
            TimeoutError: it has not answered.
        """
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(number, name, value)
            async with asyncio.timeout(seconds):
                return await future
        finally:
            del self._asked[number]

    async def close(self) -> None:
        """Ends the link; the other side notices."""
        tasks = [*self._at_work, *([self._reading] if self._reading is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writer.close()

    def _send(self, number: int, name: str, value: Any) -> None:
        if self._writer.is_closing():
            if number > 0:
                raise LinkLost
            return
        data = json.dumps([number, name, value]).encode()
        self._writer.write(_HEAD.pack(len(data)) + data)

    async def _read(self, lost: Callable[[], None]) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (length,) = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
                number, name, value = json.loads(await self._reader.readexactly(length))
                if number < 0:
                    future = self._asked.get(-number)
                    if future is not None and not future.done():
                        future.set_result(value)
                    continue
                task = asyncio.create_task(self._answer(number, name, value))
                self._at_work.add(task)
                task.add_done_callback(self._at_work.discard)
        self._writer.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(LinkLost())
        lost()

    async def _answer(self, number: int, name: str, value: Any) -> None:
        answer = await self._answers[name](value)
        if number:
            self._send(-number, "", answer)

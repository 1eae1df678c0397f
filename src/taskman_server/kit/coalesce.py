"""Callers who want the same thing at once share one answer; things of one kind, one read; work of one kind, one go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

__all__ = ["Batches", "Coalescer", "Gatherer"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")


class Coalescer(Generic[K, V]):
    """Asks once for each key that is being asked for. A caller who gives up leaves the others their answer."""

    def __init__(self) -> None:
        self._asking: dict[K, asyncio.Task[V]] = {}

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer of `ask`, or of the one that is under way for the key. Its exception goes to all who wait."""
        task = self._asking.get(key)
        if task is None:

            async def run() -> V:
                return await ask()

            task = self._asking[key] = asyncio.create_task(run())
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)


class Gatherer(Generic[K, V]):
    """Reads together what is asked for within one turn of the event loop.

    A read begins after all who wait for it have asked, so that nobody is given what is older than their question.
    """

    def __init__(self, read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        """`read`: the values of these keys, each once; what there is not is left out."""
        self._read = read
        self._asked: dict[K, asyncio.Future[V | None]] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V | None:
        """The value, or None where there is none. An exception of the read goes to all who wait for it."""
        answer = self._asked.get(key)
        if answer is None:
            loop = asyncio.get_running_loop()
            if not self._asked:
                loop.call_soon(self._begin)
            answer = self._asked[key] = loop.create_future()
        return await asyncio.shield(answer)

    def _begin(self) -> None:
        asked, self._asked = self._asked, {}
        task = asyncio.create_task(self._answer(asked))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _answer(self, asked: Mapping[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._read(list(asked))
        except BaseException as error:
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # read, or asyncio reports those whose caller has gone
            if not isinstance(error, Exception):
                raise
        else:
            for key, answer in asked.items():
                answer.set_result(found.get(key))


class Batches(Generic[T]):
    """Does together what comes while the batch before is being done."""

    def __init__(self, work: Callable[[Sequence[T]], Awaitable[None]], largest: int) -> None:
        """`work` does a batch of `largest` at most. Its exception goes to all whose work was in it."""
        self._work = work
        self._largest = largest
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._running: asyncio.Task[None] | None = None

    async def do(self, item: T) -> None:
        """Returns when it is done; it is done even if the caller gives up."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await asyncio.shield(done)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._largest], self._waiting[self._largest :]
                try:
                    await self._work([item for item, _ in batch])
                except Exception as error:
                    for _, done in batch:
                        done.set_exception(error)
                        done.exception()  # read, or asyncio reports those whose caller has gone
                else:
                    for _, done in batch:
                        done.set_result(None)
        finally:
            self._running = None

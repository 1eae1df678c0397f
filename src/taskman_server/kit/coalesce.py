"""One question at a time: callers who want the same thing at once share one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Coalescer"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


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

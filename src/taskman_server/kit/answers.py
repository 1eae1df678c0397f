"""Answers of another service, remembered: asked for once, good for a moment, and longer where nothing has changed.

An answer counts for `ttl` seconds from when it was asked for. Where the asking process reads the answering service's
database too (`AnswerCache.follow`), one that is older counts again as long as nothing was committed there since: it
would be given again word for word. So a change works within `ttl` either way, and what does not change is asked once.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cachebox import LRUCache

from taskman_server.kit.coalesce import Coalescer
from taskman_server.kit.telemetry import CacheUse

__all__ = ["AnswerCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Answer(Generic[V]):
    value: V
    asked: float
    changes: int


class AnswerCache(Generic[K, V]):
    """The answers used last."""

    def __init__(self, size: int, ttl: float, use: CacheUse, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`size`: how many are kept. `ttl`: seconds by `monotonic`. `use`: counts how often that helped."""
        self._known: LRUCache[K, _Answer[V]] = LRUCache(size)
        self._ttl = ttl
        self._use = use
        self._monotonic = monotonic
        self._asking: Coalescer[K, V] = Coalescer()
        self._changes: Callable[[], int] | None = None

    def follow(self, changes: Callable[[], int]) -> None:
        """`changes` answers a number that stays as long as nothing is committed where the answers come from."""
        self._changes = changes

    def get(self, key: K, good: Callable[[V, float], bool]) -> V | None:
        """The answer, if it is known and counts; `good` is told when it was asked for, and may know better."""
        known: _Answer[V] | None = self._known.get(key)
        if known is not None and self._counts(known) and good(known.value, known.asked):
            self._use.hits += 1
            return known.value
        self._use.misses += 1
        return None

    async def ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """The answer of `ask`, which is made once for all who ask for the key at that time."""
        return await self._asking.get(key, lambda: self._ask(key, ask))

    def _counts(self, known: _Answer[V]) -> bool:
        now = self._monotonic()
        if now - known.asked < self._ttl:
            return True
        if self._changes is None or known.changes != self._changes():
            return False
        known.asked = now
        return True

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        asked = self._monotonic()
        changes = self._changes() if self._changes is not None else 0
        value = await ask()
        self._known.insert(key, _Answer(value, asked, changes))
        return value

"""What a process has read from a database that it alone writes to, remembered until a commit changes it.

Exact, not merely fresh: a commit forgets what it changed before its caller is answered, so that nobody reads what was
before their own write. Where other processes write too (`Database.shared`) there is no such cache.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from cachebox import LRUCache

from taskman_server.kit.telemetry import CacheUse

__all__ = ["ReadCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ReadCache(Generic[K, V]):
    """The values used last."""

    def __init__(self, size: int, use: CacheUse) -> None:
        """`size`: how many are kept. `use`: counts how often that helped."""
        self._known: LRUCache[K, V] = LRUCache(size)
        self._use = use
        self._changes = 0

    @property
    def changes(self) -> int:
        """How often something was forgotten. To be noted before a read whose result is to be kept."""
        return self._changes

    def get(self, key: K) -> V | None:
        """The value, if it is known."""
        value: V | None = self._known.get(key)
        if value is None:
            self._use.misses += 1
        else:
            self._use.hits += 1
        return value

    def keep(self, key: K, value: V, changes: int) -> None:
        """Remembers what was read, unless something was forgotten since `changes` was noted: the read may be older."""
        if changes == self._changes:
            self._known.insert(key, value)

    def forget(self, *keys: K) -> None:
        """A commit has changed these."""
        self._changes += 1
        for key in keys:
            self._known.pop(key, None)

    def clear(self) -> None:
        """A commit has changed many."""
        self._changes += 1
        self._known.clear()

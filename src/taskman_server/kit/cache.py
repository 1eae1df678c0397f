"""What a process has read from a database, remembered until a commit changes it.

Exact, not merely fresh: a commit forgets what it changed before its caller is answered, so that nobody reads what was
before their own write. Where other processes of this machine write too, each look asks first whether one of them has
committed a change of what may be remembered (`Database.elsewhere`), and then all is forgotten; what is merely added is
no such change. Where that cannot be asked (`Database.shared`) there is no such cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from cachebox import LRUCache

from taskman_server.kit.telemetry import CacheUse

if TYPE_CHECKING:
    from taskman_server.kit.db import Transaction

__all__ = ["ReadCache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ReadCache(Generic[K, V]):
    """The values used last."""

    def __init__(self, size: int, use: CacheUse, elsewhere: Callable[[], int] | None) -> None:
        """`size`: how many are kept. `use`: counts how often that helped. `elsewhere`: see `Database`."""
        self._known: LRUCache[K, V] = LRUCache(size)
        self._use = use
        self._changes = 0
        self._elsewhere = elsewhere
        self._seen = 0

    @property
    def changes(self) -> int:
        """How often something was forgotten. To be noted between `get` and the read whose result is to be kept."""
        return self._changes

    def get(self, key: K) -> V | None:
        """The value, if it is known."""
        self._look_elsewhere()
        value: V | None = self._known.get(key)
        if value is None:
            self._use.misses += 1
        else:
            self._use.hits += 1
        return value

    def holds(self, key: K, value: V) -> bool:
        """Whether this is still the value, so that nothing has changed since it was read."""
        self._look_elsewhere()
        return self._known.get(key) is value

    def keep(self, key: K, value: V, changes: int) -> None:
        """Remembers what was read, unless something was forgotten since `changes` was noted: the read may be older."""
        if changes == self._changes:
            self._known.insert(key, value)

    def forget(self, tx: Transaction, *keys: K) -> None:
        """A transaction changes these: they are forgotten with its commit, in other processes as well."""
        tx.invalidate()
        tx.on_commit(partial(self._forget, keys))

    def clear(self, tx: Transaction) -> None:
        """A transaction changes many."""
        tx.invalidate()
        tx.on_commit(self._forget_all)

    def _forget(self, keys: tuple[K, ...]) -> None:
        self._changes += 1
        for key in keys:
            self._known.pop(key, None)

    def _forget_all(self) -> None:
        self._changes += 1
        self._known.clear()

    def _look_elsewhere(self) -> None:
        if self._elsewhere is not None and (seen := self._elsewhere()) != self._seen:
            self._seen = seen
            self._forget_all()

"""Answers of another service, remembered: asked for once, good for a moment, and longer where nothing has changed.

An answer counts for `ttl` seconds from when it was asked for. Where the asking process reads the answering service's
database too (`AnswerCache.follow`), one that is older counts again as long as nothing was committed there since: it
would be given again word for word. So a change works within `ttl` either way, and what does not change is asked once.

Elsewhere the answers themselves can say so: one may be of a group, for example an organization, and name the generation
of all that answers of the group depend on. A later one of the same generation, whoever it is about, says that nothing
has changed until it was asked for; then the others of that generation count from that moment. So one question in `ttl`
serves a group of thousands, and a change works within `ttl` all the same.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

from cachebox import LRUCache

from taskman_server.kit.coalesce import Coalescer
from taskman_server.kit.telemetry import CacheUse

__all__ = ["KEPT", "AnswerCache"]

KEPT: Final = 60.0
"""Seconds after which an answer is asked for anew whatever generation is named: a database may be put back to a backup,
and come to the same number in another way."""
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Answer(Generic[V]):
    value: V
    asked: float
    used: float
    changes: int
    first: float
    group: Hashable
    generation: int


class AnswerCache(Generic[K, V]):
    """The answers used last."""

    def __init__(
        self,
        size: int,
        ttl: float,
        use: CacheUse,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        state: Callable[[K, V], tuple[Hashable, int]] | None = None,
    ) -> None:
        """Args:
        size: how many are kept.
        ttl: seconds by `monotonic`.
        use: counts how often that helped.
        monotonic: a clock that only goes forward.
        state: the group of an answer and the generation that it names, 0 for none.
        """
        self._known: LRUCache[K, _Answer[V]] = LRUCache(size)
        self._ttl = ttl
        self._use = use
        self.monotonic = monotonic
        self._asking: Coalescer[K, V] = Coalescer()
        self._changes: Callable[[], int] | None = None
        self._state = state
        # By group: its generation, and when that was asked for.
        self._generations: LRUCache[Hashable, tuple[int, float]] = LRUCache(size)
        self._confirming: Coalescer[Hashable, V] = Coalescer()

    def follow(self, changes: Callable[[], int]) -> None:
        """`changes` answers a number that stays as long as nothing is committed where the answers come from."""
        self._changes = changes

    def get(self, key: K, good: Callable[[V, float], bool]) -> V | None:
        """The answer, if it is known and counts; `good` is told when it was asked for, and may know better."""
        value = self.look(key, good)
        if value is not None:
            self._use.hits += 1
        else:
            self._use.misses += 1
        return value

    async def ask(self, key: K, ask: Callable[[], Awaitable[V]], good: Callable[[V, float], bool]) -> V:
        """The answer of `ask`, which is made once for all who ask for the key at that time; or the known one, if an
        answer that somebody of the group waits for says that it counts."""
        known: _Answer[V] | None = self._known.get(key)
        if known is not None and known.generation:
            await self._confirming.get(known.group, lambda: self._once(key, ask))
            if (value := self.look(key, good)) is not None:
                return value
        return await self._once(key, ask)

    def old(self, seconds: float, most: int) -> list[K]:
        """The keys of answers that were wanted within so many seconds and will not count for much longer."""
        now = self.monotonic()
        wanted = (
            key
            for key, known in self._known.items()
            if now - known.used < seconds and now - known.asked >= self._ttl / 2
        )
        return list(islice(wanted, most))

    def confirm(self, keys: Iterable[K], asked: float) -> None:
        """The same would have been answered to a question of that moment, by `monotonic`."""
        for key in keys:
            known: _Answer[V] | None = self._known.get(key)
            if known is not None and known.asked < asked:
                known.asked = asked

    def knows(self, key: K) -> bool:
        """Whether there is an answer, whether it counts or not."""
        return key in self._known

    def forget(self, key: K) -> None:
        """An answer is not true any more."""
        self._known.pop(key, None)

    @property
    def follows(self) -> bool:
        """Whether it looks at the answering service's database."""
        return self._changes is not None

    def look(self, key: K, good: Callable[[V, float], bool]) -> V | None:
        """As `get`, without counting."""
        known: _Answer[V] | None = self._known.get(key)
        if known is not None and self._counts(known) and good(known.value, known.asked):
            return known.value
        return None

    async def _once(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        return await self._asking.get(key, lambda: self._ask(key, ask))

    def _counts(self, known: _Answer[V]) -> bool:
        now = known.used = self.monotonic()
        if now - known.asked < self._ttl:
            return True
        if self._changes is not None and known.changes == self._changes():
            known.asked = now
            return True
        if not known.generation or now - known.first >= KEPT:
            return False
        confirmed: tuple[int, float] | None = self._generations.get(known.group)
        if confirmed is None or confirmed[0] != known.generation or now - confirmed[1] >= self._ttl:
            return False
        known.asked = confirmed[1]
        return True

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        asked = self.monotonic()
        changes = self._changes() if self._changes is not None else 0
        value = await ask()
        group, generation = self._state(key, value) if self._state is not None else (None, 0)
        self._known.insert(key, _Answer(value, asked, asked, changes, asked, group, generation))
        if generation:
            confirmed = self._generations.get(group)
            if confirmed is None or confirmed[1] <= asked:
                self._generations.insert(group, (generation, asked))
        return value

"""The order in which a queue hands out its messages; no I/O, no clock.

Messages with one key form a lane. Within a batch a lane may have several, in order. While a lane has messages in
another batch, or its head waits for a retry, its later messages are parked and other lanes flow on.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from taskman_server.kit.broker import Message
from taskman_server.kit.broker.handover import Handover


@dataclass(slots=True)
class Item:
    """A message in a queue: `sequence` is its place, `attempts` how often it was delivered, `handover` what it belongs
    to while it has no row."""

    sequence: int
    message: Message
    attempts: int
    redriven: bool
    handover: Handover | None = None

    @property
    def key(self) -> str:
        """The lane."""
        return self.message.key or self.message.id


class Lanes:
    """The messages of one queue that are in memory."""

    def __init__(self) -> None:
        self._ready: deque[Item] = deque()
        self._parked: dict[str, list[Item]] = {}
        self._parked_total = 0
        self._flying: Counter[str] = Counter()
        self._waiting: set[str] = set()
        self.unsettled: dict[int, Item] = {}

    @property
    def ready(self) -> int:
        """How many could be looked at next."""
        return len(self._ready)

    @property
    def held(self) -> int:
        """How many are in memory, those that are handed out included."""
        return len(self._ready) + self._parked_total + len(self.unsettled)

    def add(self, items: Iterable[Item]) -> None:
        """Messages that arrived, in their order."""
        self._ready.extend(items)

    def take(self, limit: int) -> list[Item]:
        """The next batch, at most `limit`; one that was tried before comes alone."""
        batch: list[Item] = []
        mine: set[str] = set()
        while self._ready and len(batch) < limit:
            item = self._ready[0]
            key = item.key
            if key not in mine and (key in self._flying or key in self._parked or key in self._waiting):
                self._ready.popleft()
                self._park(item)
                continue
            if item.attempts and batch:
                break
            self._ready.popleft()
            batch.append(item)
            mine.add(key)
            self._flying[key] += 1
            self.unsettled[item.sequence] = item
            if item.attempts:
                break
        return batch

    def settle(self, sequence: int) -> None:
        """A message is done or given up: its lane goes on."""
        item = self.unsettled.pop(sequence, None)
        if item is not None:
            self._land(item)

    def put_back(self, sequence: int, *, wait: bool) -> None:
        """A message comes back to the head of its lane; with `wait` the lane stands until `resume`."""
        item = self.unsettled.pop(sequence, None)
        if item is None:
            return
        if wait:
            self._waiting.add(item.key)
        self._park(item)
        self._land(item)

    def resume(self, key: str) -> None:
        """The pause of a lane is over."""
        self._waiting.discard(key)
        self._unpark(key)

    def clear(self) -> None:
        """Forget everything but what is unsettled."""
        self._ready.clear()
        self._parked.clear()
        self._parked_total = 0

    def _park(self, item: Item) -> None:
        insort(self._parked.setdefault(item.key, []), item, key=lambda parked: parked.sequence)
        self._parked_total += 1

    def _land(self, item: Item) -> None:
        key = item.key
        self._flying[key] -= 1
        if not self._flying[key]:
            del self._flying[key]
            self._unpark(key)

    def _unpark(self, key: str) -> None:
        if key in self._waiting or key in self._flying:
            return
        items = self._parked.pop(key, None)
        if items:
            self._parked_total -= len(items)
            self._ready.extendleft(reversed(items))

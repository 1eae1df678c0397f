"""Messages that were handed to the queues of waiting consumers without a row: most are done with before one is needed.

Their publisher has them still, and waits: until each copy is done with, or has been given a row after all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskman_server.kit.broker import BrokerUnavailable

if TYPE_CHECKING:
    from taskman_server.kit.broker.lanes import Item
    from taskman_server.kit.broker.queue import Queue

__all__ = ["Handover"]


class Handover:
    """What one publication has handed over."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.left: dict[int, tuple[Queue, Item]] = {}
        """By sequence: the copies that are neither done with nor written."""
        self._aside = 0
        self._hurried = False
        self._changed = asyncio.Event()

    def add(self, queue: Queue, item: Item) -> None:
        """Another copy; it may have been left to another publication, of the same message, before.

        Raises:
            BrokerUnavailable: it is being put elsewhere at this moment, and it is not known yet whether that works.
        """
        if item.handover is not None and item.handover.left.pop(item.sequence, None) is None:
            raise BrokerUnavailable(
                f"{item.message.id} is on its way to the dead letters: publish it again in a moment"
            )
        item.handover = self
        self.left[item.sequence] = (queue, item)

    def remove(self, item: Item) -> None:
        """This one is done with, or has a row."""
        self.left.pop(item.sequence, None)
        item.handover = None
        self._changed.set()

    def hurry(self) -> None:
        """One of them will stay: it is to have a row now."""
        self._hurried = True
        self._changed.set()

    @contextmanager
    def moving(self, item: Item) -> Iterator[None]:
        """A copy that is being put elsewhere, and needs no row unless that fails."""
        entry = self.left.pop(item.sequence)
        self._aside += 1
        try:
            yield
        except BaseException:
            self.left[item.sequence] = entry
            self._hurried = True
            raise
        else:
            item.handover = None
        finally:
            self._aside -= 1
            self._changed.set()

    async def settled(self, grace: float) -> bool:
        """Whether all are done with, within so many seconds and before one is known to stay."""
        try:
            async with asyncio.timeout(grace):
                while self.left and not self._hurried:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        while self._aside:
            self._changed.clear()
            await self._changed.wait()
        return not self.left

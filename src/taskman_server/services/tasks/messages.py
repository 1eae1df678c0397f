"""Tasks as messages, made once for each version.

Every change of a task makes it another version, so a message is found by that alone, wherever the version was read:
here nothing is ever out of date. A page of a list therefore asks the database which tasks are on it, in which versions,
and reads only those that are not known in these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from cachebox import LRUCache

from taskman_sdk.proto.taskman.task.v1.task_pb import Task
from taskman_server.kit.db import Executor, Row
from taskman_server.kit.telemetry import CacheUse
from taskman_server.services.tasks import convert
from taskman_server.services.tasks.store import TaskStore

__all__ = ["TaskMessages"]

_SIZE: Final = 10_000  # some 3 KB each


class TaskMessages:
    """The messages used last. They are shared: nobody may change one."""

    def __init__(self, store: TaskStore, use: CacheUse) -> None:
        """`use`: counts how often a page found a task here."""
        self._store = store
        self._use = use
        self._known: LRUCache[int, tuple[int, Task]] = LRUCache(_SIZE)

    async def page(self, source: Executor, organization: str, found: Sequence[Row]) -> list[Task] | None:
        """The messages of the tasks that a list has found; of each row `seq` and `version` count.

        None when one of them has changed since: then it may be on the page no longer, nor be the caller's to see.
        """
        messages = self._find(found)
        missing = [row.seq for row, message in zip(found, messages, strict=True) if message is None]
        self._use.hits += len(found) - len(missing)
        self._use.misses += len(missing)
        if missing:
            for row in await self._store.by_seq(source, organization, missing):
                self._known.insert(row.seq, (row.version, convert.task_message(row)))
            messages = self._find(found)
        return None if None in messages else cast("list[Task]", messages)

    def _find(self, found: Sequence[Row]) -> list[Task | None]:
        look = self._known.get
        return [known[1] if (known := look(row.seq)) is not None and known[0] == row.version else None for row in found]

"""What the embedded broker notes of messages that are under way: deliveries counted, messages forgotten.

All that is noted within a turn of the event loop, of whatever queue, is one commit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from taskman_server.kit.broker import store
from taskman_server.kit.db import Database, Statement

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)


class Ledger:
    """Writes to the table of messages by their sequence. Not synced: a power cut brings back what was there before."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._noted: dict[Statement, list[int]] = {}
        self._written: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def count(self, sequences: Sequence[int]) -> None:
        """Another delivery of these; on return it is written. Raises DatabaseError."""
        try:
            await asyncio.shield(self._note(store.COUNT_DELIVERY, sequences))
        except asyncio.CancelledError:
            # Whether it is written by now or not: they are not handed out.
            self._note(store.UNCOUNT, sequences)
            raise

    async def uncount(self, sequences: Sequence[int]) -> None:
        """One delivery less; on return it is written. Raises DatabaseError."""
        await asyncio.shield(self._note(store.UNCOUNT, sequences))

    def forget(self, sequences: Sequence[int]) -> None:
        """These are done. It is written with the next turn of the event loop, or once the database works again; a
        process that is killed before gets them again."""
        self._note(store.DELETE_MESSAGES, sequences)

    async def settled(self) -> None:
        """Return when all that was noted is written. Raises DatabaseError."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        if self._noted:
            await asyncio.shield(self._note(store.DELETE_MESSAGES, ()))

    def again(self) -> None:
        """Try once more to write what could not be written."""
        if self._noted:
            self._note(store.DELETE_MESSAGES, ())

    def _note(self, statement: Statement, sequences: Sequence[int]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._noted.setdefault(statement, []).extend(sequences)
        if self._written is None:
            self._written = loop.create_future()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="broker-ledger")
        return self._written

    async def _run(self) -> None:
        while (written := self._written) is not None:
            noted, self._noted, self._written = self._noted, {}, None
            try:
                async with self._db.transaction(durable=False) as tx:
                    for statement, sequences in noted.items():
                        await tx.execute(statement, sequences=sequences)
            except Exception as error:
                if done := noted.get(store.DELETE_MESSAGES):
                    _log.warning("%d messages that are done stay in their queues for now: %s", len(done), error)
                    self._noted.setdefault(store.DELETE_MESSAGES, []).extend(done)
                written.set_exception(error)
                written.exception()  # read, or asyncio reports it where nobody waits
            else:
                written.set_result(None)

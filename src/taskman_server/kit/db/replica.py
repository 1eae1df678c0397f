"""Reads from a streaming replica that never lie behind what their principal wrote."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from taskman_server.kit.db.errors import DatabaseUnavailable, StatementTimeout, TransactionConflict
from taskman_server.kit.db.statements import Row, Statement

if TYPE_CHECKING:
    from taskman_server.kit.db import AnyStatement, Executor
    from taskman_server.kit.db.postgres import PostgresDatabase

__all__ = ["LocalWriteMarks", "Replica", "WriteMarks"]

_FRESH = 0.1  # seconds for which an answer about the replica's position is good
_PATIENCE = 0.25  # seconds that a read waits for that answer before it goes to the primary
_PAUSE = 1.0  # seconds before a replica that was away is asked again
_MAX_LAG = 10.0  # seconds behind at which the replica is no use, even for those who wrote nothing
_PIN = 60.0  # seconds at the primary for a principal whose mark could not be kept

# A position in the log as a number. What is inserted is ahead of what is on disk, so it covers a commit that did not
# wait for the disk too.
_WRITTEN = Statement(
    sa.select((sa.func.pg_wal_lsn_diff(sa.func.pg_current_wal_insert_lsn(), sa.text("'0/0'"))).label("lsn"))
)
_REPLAYED = Statement(
    sa.text(
        "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint AS lsn,"
        " pg_is_in_recovery() AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pid IS NOT NULL) AS streams,"
        " CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0"
        " ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)"
        " END::float8 AS lag"
    ).columns(lsn=sa.BigInteger, streams=sa.Boolean, lag=sa.Double)
)


class WriteMarks(Protocol):
    """How far in the primary's log each principal has written: 0 for one that wrote nothing for a long time."""

    async def get(self, key: str) -> int | None:
        """The position up to which a replica must have come; None when that cannot be told at present."""

    async def put(self, key: str, lsn: int) -> None:
        """Keep a position; raises when that cannot be done."""


class LocalWriteMarks:
    """The marks of one process. Implements `WriteMarks`."""

    def __init__(self, size: int = 10_000) -> None:
        """Keep the marks of the `size` principals that wrote last; all others count as the youngest one forgotten."""
        self._size = size
        self._floor = 0
        self._marks: OrderedDict[str, int] = OrderedDict()

    async def get(self, key: str) -> int | None:
        """The position of the key's last write, or one that is certainly not before it."""
        return self._marks.get(key, self._floor)

    async def put(self, key: str, lsn: int) -> None:
        """Keep a position."""
        self._marks[key] = max(lsn, self._marks.get(key, 0))
        self._marks.move_to_end(key)
        if len(self._marks) > self._size:
            self._floor = max(self._floor, self._marks.popitem(last=False)[1])


class Replica:
    """A replica beside its primary."""

    def __init__(self, primary: PostgresDatabase, copy: PostgresDatabase, marks: WriteMarks) -> None:
        """Nothing is asked before somebody reads."""
        self._primary = primary
        self._copy = copy
        self._marks = marks
        self._executor = _Reader(self)
        self._replayed = -1
        self._asked = float("-inf")  # when the position was true
        self._pause_until = 0.0
        self._asking: asyncio.Task[None] | None = None
        self._pinned: OrderedDict[str, float] = OrderedDict()
        self.lag: float | None = None

    async def reader(self, key: str) -> Executor:
        """See `PostgresDatabase.reader`."""
        now = monotonic()
        if now < self._pause_until or self._pinned.get(key, 0.0) > now:
            return self._primary
        try:
            mark = await self._marks.get(key)
        except Exception:
            return self._primary
        if mark is None:
            return self._primary
        if now - self._asked > _FRESH:
            await self._ask()
        return self._executor if monotonic() >= self._pause_until and self._replayed >= mark else self._primary

    async def note_write(self, key: str) -> None:
        """See `PostgresDatabase.note_write`. Awaited before the writer is answered, so that its next read, wherever it
        lands, finds the mark."""
        # The write is committed and stays so. Until its mark is kept, or where it cannot be, only this process can keep
        # the promise.
        pin = self._pin(key)
        with contextlib.suppress(Exception):
            row = await self._primary.fetch_one(_WRITTEN)
            await self._marks.put(key, int(row.lsn) if row is not None else 0)
            if self._pinned.get(key) == pin:
                del self._pinned[key]

    async def close(self) -> None:
        """Close the connections to the replica."""
        if self._asking is not None:
            self._asking.cancel()
        await self._copy.close()

    @property
    def copy(self) -> PostgresDatabase:
        """The replica itself."""
        return self._copy

    @property
    def primary(self) -> PostgresDatabase:
        """Where all that cannot be read from the replica is read."""
        return self._primary

    def away(self) -> None:
        """The replica did not answer: leave it alone for a while."""
        self._pause_until = monotonic() + _PAUSE
        self.lag = None

    def _pin(self, key: str) -> float:
        """Have the key read from the primary for a while; until when."""
        now = monotonic()
        until = self._pinned[key] = now + _PIN
        self._pinned.move_to_end(key)
        while next(iter(self._pinned.values())) < now:
            self._pinned.popitem(last=False)
        return until

    async def _ask(self) -> None:
        """One question at a time; those who wait for it share it."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._poll())
        _, late = await asyncio.wait([self._asking], timeout=_PATIENCE)
        if late:
            self._pause_until = float("inf")  # until there is an answer, of whatever kind
            self.lag = None

    async def _poll(self) -> None:
        asked = monotonic()
        try:
            row = await self._copy.fetch_one(_REPLAYED)
        except Exception:
            self.away()
            return
        if row is None or not row.streams or row.lsn is None or row.lag > _MAX_LAG:
            self.away()
            return
        self._replayed, self._asked, self.lag = int(row.lsn), asked, float(row.lag)
        self._pause_until = 0.0


class _Reader:
    """Reads on the replica, and on the primary what the replica cannot answer."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def fetch_one(self, statement: AnyStatement, /, **params: Any) -> Row | None:
        try:
            return await self._replica.copy.fetch_one(statement, **params)
        except (DatabaseUnavailable, StatementTimeout, TransactionConflict) as error:
            self._failed(error)
            return await self._replica.primary.fetch_one(statement, **params)

    async def fetch_all(self, statement: AnyStatement, /, **params: Any) -> list[Row]:
        try:
            return await self._replica.copy.fetch_all(statement, **params)
        except (DatabaseUnavailable, StatementTimeout, TransactionConflict) as error:
            self._failed(error)
            return await self._replica.primary.fetch_all(statement, **params)

    async def execute(self, statement: AnyStatement, /, **params: Any) -> int:
        return await self._replica.primary.execute(statement, **params)

    async def execute_many(self, statement: AnyStatement, rows: Sequence[Mapping[str, Any]], /) -> None:
        await self._replica.primary.execute_many(statement, rows)

    def _failed(self, error: Exception) -> None:
        # A read that the replica ended for the sake of its replay (40001) says nothing about the next one.
        if isinstance(error, DatabaseUnavailable):
            self._replica.away()

"""One transaction of a `SqliteDatabase`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import apsw

from taskman_server.kit.db.errors import DatabaseError
from taskman_server.kit.db.sqlite_errors import translate
from taskman_server.kit.db.sqlite_sync import run_callbacks
from taskman_server.kit.db.statements import Prepared, Row

if TYPE_CHECKING:
    from taskman_server.kit.db import AnyStatement
    from taskman_server.kit.db.sqlite import SqliteDatabase

T = TypeVar("T")

_FAILURES = (apsw.Error, TypeError, ValueError, OverflowError)
_PAUSE, _LONGEST_PAUSE = 0.002, 0.01  # seconds between two looks whether another process has finished writing
_CHUNK = 200  # rows of an execute_many between two turns of the event loop


class SqliteTransaction:
    """BEGIN IMMEDIATE on entering, COMMIT or ROLLBACK on leaving. Implements `kit.db.Transaction`."""

    __slots__ = (
        "_active", "_callbacks", "_changes", "_db", "_durable", "_failed", "_invalidates", "_offload", "_savepoints",
    )  # fmt: skip

    def __init__(self, db: SqliteDatabase, *, durable: bool, offload: bool) -> None:
        """Nothing happens before it is entered."""
        self._db = db
        self._durable = durable
        self._offload = offload
        self._active = False
        self._failed = False
        self._invalidates = False
        self._savepoints = 0
        self._changes = 0
        self._callbacks: list[Callable[[], None]] = []

    async def __aenter__(self) -> SqliteTransaction:
        """Wait for the turn and begin."""
        db = self._db
        db.check_open()
        task = asyncio.current_task()
        if db.owner is task:
            raise RuntimeError(f"this task is in a transaction on {db.name} already: pass that one on, or end it first")
        await db.lock.acquire()
        try:
            db.check_open()
            await self._begin()
            db.note_begin()
        except BaseException:
            db.lock.release()
            raise
        db.owner = task
        self._active = True
        self._changes = db.writer.total_changes()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back after an exception."""
        db = self._db
        self._active = False
        changed = False
        started = time.monotonic()
        try:
            if kind is not None or self._failed:
                self._roll_back()
            else:
                changed = db.writer.total_changes() != self._changes
                self._commit()
        finally:
            db.owner = None
            db.lock.release()
        if kind is not None:
            return
        if self._failed:
            raise DatabaseError(
                f"a statement in this transaction on {db.name} failed, so nothing was committed: let its error pass,"
                " or put what may fail in a savepoint"
            )
        db.after_commit()
        if changed and db.on_write is not None:
            self._callbacks.append(db.on_write)
        if db.group is not None and self._durable and changed:
            await db.group.submit(self._callbacks)
        else:
            run_callbacks(self._callbacks)
        if db.observe is not None:
            db.observe("commit", time.monotonic() - started)

    async def fetch_one(self, statement: AnyStatement, /, **params: Any) -> Row | None:
        """The first row, or None."""
        prepared, params = self._db.resolve(statement, params)
        rows = await self._fetch(prepared, params, first=not prepared.writes)
        return rows[0] if rows else None

    async def fetch_all(self, statement: AnyStatement, /, **params: Any) -> list[Row]:
        """All rows, those that this transaction has written included."""
        prepared, params = self._db.resolve(statement, params)
        return await self._fetch(prepared, params, first=False)

    async def execute(self, statement: AnyStatement, /, **params: Any) -> int:
        """Run a statement; how many rows it changed."""
        prepared, params = self._db.resolve(statement, params)
        sql, values = prepared.bind(params)
        writer = self._db.writer

        def work() -> int:
            before = writer.total_changes()
            writer.execute(sql, values).fetchall()
            # changes() keeps the number of an earlier statement when this one changed nothing at all.
            return writer.changes() if writer.total_changes() != before else 0

        return await self._run(work, "write")

    async def execute_many(self, statement: AnyStatement, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Run a statement once per mapping; other tasks get their turn in between."""
        prepared, literals = self._db.resolve(statement, {})
        writer = self._db.writer
        for start in range(0, len(rows), _CHUNK):
            bound = [prepared.bind({**literals, **row} if literals else row) for row in rows[start : start + _CHUNK]]

            def work(calls: Sequence[tuple[str, Sequence[Any]]] = bound) -> None:
                for sql, values in calls:
                    writer.execute(sql, values).fetchall()

            await self._run(work, "write")
            if start + _CHUNK < len(rows):
                await asyncio.sleep(0)

    def on_commit(self, callback: Callable[[], None], /) -> None:
        """Call back once the commit is durable; never after a rollback."""
        self._callbacks.append(callback)

    def invalidate(self) -> None:
        """See `kit.db.Transaction.invalidate`."""
        self._invalidates = True

    async def take_turn(self, name: str, /) -> None:
        """See `kit.db.Transaction.take_turn`: writers take turns here anyway."""

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that can fail alone."""
        writer = self._db.writer
        self._check()
        self._savepoints += 1
        name = f"s{self._savepoints}"
        callbacks = len(self._callbacks)
        writer.execute(f"SAVEPOINT {name}")
        try:
            yield
            if self._failed:
                raise DatabaseError("a statement in this savepoint failed, so it was undone: let its error pass")
        except BaseException:
            del self._callbacks[callbacks:]
            if writer.in_transaction:
                writer.execute(f"ROLLBACK TO {name}")
                writer.execute(f"RELEASE {name}")
                self._failed = False
            raise
        writer.execute(f"RELEASE {name}")

    async def _fetch(self, prepared: Prepared, params: Mapping[str, Any], *, first: bool) -> list[Row]:
        sql, values = prepared.bind(params)
        writer = self._db.writer
        kind: Literal["read", "write"] = "write" if prepared.writes else "read"
        return await self._run(lambda: prepared.rows(fetch(writer, sql, values, first)), kind)

    async def _run(self, work: Callable[[], T], kind: Literal["read", "write"]) -> T:
        self._check()
        db = self._db
        guard = db.writer_guard
        started = time.monotonic()
        try:
            if not self._offload:
                guard.deadline = started + (db.inline_budget if kind == "read" else db.statement_timeout)
                try:
                    return work()
                except apsw.InterruptError:
                    if kind == "write":
                        raise
            guard.deadline = time.monotonic() + db.statement_timeout
            return await db.in_thread(work, guard)
        except _FAILURES as error:
            self._failed = True
            raise translate(error, db.name) from None
        finally:
            guard.deadline = float("inf")
            if db.observe is not None:
                db.observe(kind, time.monotonic() - started)

    def _check(self) -> None:
        if not self._active:
            raise RuntimeError("this transaction has ended: use it inside its `async with` block only")
        if self._failed:
            raise DatabaseError(
                f"an earlier statement in this transaction on {self._db.name} failed: let its error pass, or put what"
                " may fail in a savepoint"
            )

    async def _begin(self) -> None:
        db = self._db
        deadline = time.monotonic() + db.lock_timeout
        delay = _PAUSE
        while True:
            try:
                db.writer.execute("BEGIN IMMEDIATE")
                return
            except apsw.BusyError as error:
                # Another process writes. SQLite's own waiting would hold up the event loop.
                if time.monotonic() > deadline:
                    raise translate(error, db.name) from None
            except apsw.Error as error:
                raise translate(error, db.name) from None
            # Another one's transaction takes less than a millisecond, a checkpoint many.
            await asyncio.sleep(random.uniform(delay / 2, delay))
            delay = min(delay * 1.5, _LONGEST_PAUSE)

    def _commit(self) -> None:
        try:
            self._db.commit(invalidate=self._invalidates)
        except apsw.Error as error:
            self._roll_back()
            raise translate(error, self._db.name) from None

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors (disk full, an interrupted write).
        if self._db.writer.in_transaction:
            self._db.writer.execute("ROLLBACK")


def fetch(connection: apsw.Connection, sql: str, values: Sequence[Any], first: bool) -> list[tuple[Any, ...]]:
    """Run a statement on a connection: its first row or all of them."""
    cursor = connection.execute(sql, values)
    if not first:
        return cursor.fetchall()
    row = cursor.fetchone()
    cursor.close(True)  # else the read would stay open and keep the log from being reset
    return [] if row is None else [row]

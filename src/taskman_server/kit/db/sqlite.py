"""SQLite through apsw: one file, one writer, reads on the event loop while they are short.

A read by key takes about 10 µs, far less than handing it to a thread. A read that takes longer than its budget is
interrupted and run again in a thread, so that it never holds up the loop; its statement stays off the loop for a while
(`Prepared.was_slow`). Writers take turns; how commits become durable is in `sqlite_sync`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw
from sqlalchemy import Dialect
from sqlalchemy.dialects import sqlite

from taskman_server.kit.db import AnyStatement, Executor, Transaction
from taskman_server.kit.db.errors import DatabaseUnavailable
from taskman_server.kit.db.sqlite_errors import translate
from taskman_server.kit.db.sqlite_sync import GroupCommit
from taskman_server.kit.db.sqlite_transaction import SqliteTransaction, fetch
from taskman_server.kit.db.statements import DynamicCache, Prepared, Row, Statement

T = TypeVar("T")

_STEPS = 20_000  # virtual machine instructions between two looks at the clock, some 200 µs; a look takes 1 µs
_CHECKPOINT_PAGES = 4000
_TRUNCATE_PAGES = 16_000
# A number in the file's header that means nothing to SQLite, and is part of transactions: how often rows were changed
# that other processes may remember. Its neighbour, `user_version`, is of the migrations.
_EDITION = "PRAGMA application_id"
_EDITIONS = 2**31
_FORGET_PATIENCE = 100  # milliseconds; who waits for readers there holds up the writers


class Guard:
    """SQLite's progress handler: stops a statement at its deadline or when its caller has gone."""

    __slots__ = ("cancelled", "deadline")

    def __init__(self) -> None:
        self.deadline = float("inf")
        self.cancelled = False

    def __call__(self) -> bool:
        return self.cancelled or time.monotonic() > self.deadline


class InlineGuard(Guard):
    """The guard of reads on the event loop. Its deadline counts processor time: a read that was short, but was kept
    waiting for a processor, is not slow, and a thread would only wait longer."""

    __slots__ = ()

    def __call__(self) -> bool:
        return self.cancelled or time.thread_time() > self.deadline


class SqliteDatabase:
    """A service's database file. Implements `kit.db.Database`; to be used from one event loop."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        statement_timeout: float = 5.0,
        lock_timeout: float = 5.0,
        inline_budget: float = 0.005,
        readers: int = 2,
        alone: bool = True,
        observe: Callable[[str, float], None] | None = None,
    ) -> None:
        """Open or create the file at `path`, readable by its owner only.

        `durability`: `full` survives a power cut; `normal` survives a killed process and may lose the last commits in
        a power cut. `statement_timeout`, `lock_timeout` (another process writes) and `inline_budget` (a read on the
        event loop) are in seconds; `readers` is how many long reads run at once; `alone`: no other process writes to
        the file as long as this one runs; `observe` is told the kind (`read`, `write`, `commit` with the wait for the
        disk) and the seconds of each query. Raises DatabaseUnavailable.
        """
        self.path = Path(path)
        self.name = self.path.name
        self.statement_timeout = statement_timeout
        self.lock_timeout = lock_timeout
        self.observe = observe
        self._budget = inline_budget
        self.inline_budget = inline_budget
        self._dialect: Dialect = sqlite.dialect(paramstyle="qmark")
        self._dynamic = DynamicCache(self._dialect)
        self._closed = False
        self._checkpointing = False
        self._pages = 0
        self._local = threading.local()
        self._connections: list[apsw.Connection] = []
        self.lock = asyncio.Lock()
        self.owner: asyncio.Task[Any] | None = None
        self.on_write: Callable[[], None] | None = None
        self._alone = alone
        self._edition = self._elsewhere = 0
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.writer, self.writer_guard = self._connect()
            self.writer.set_wal_hook(self._on_wal)
            self._reader, self._reader_guard = self._connect(read_only=True)
        except (apsw.Error, OSError) as error:
            self._close_connections()
            raise self._cannot_open(error) from None
        self.group = GroupCommit(f"{self.path}-wal", self.name) if durability == "full" else None
        self._pool = ThreadPoolExecutor(readers + 1, thread_name_prefix=f"db-{self.path.stem}")

    @property
    def dialect(self) -> Dialect:
        """The SQLite dialect with `?` parameters."""
        return self._dialect

    def prepare(self, *statements: Statement) -> None:
        """Compile statements now."""
        for statement in statements:
            statement.prepare(self._dialect)

    async def fetch_one(self, statement: AnyStatement, /, **params: Any) -> Row | None:
        """The first row, or None."""
        prepared, params = self.resolve(statement, params)
        if prepared.writes:
            async with self.transaction() as transaction:
                return await transaction.fetch_one(statement, **params)
        rows = await self._read(prepared, params, first=True)
        return rows[0] if rows else None

    async def fetch_all(self, statement: AnyStatement, /, **params: Any) -> list[Row]:
        """All rows."""
        prepared, params = self.resolve(statement, params)
        if prepared.writes:
            async with self.transaction() as transaction:
                return await transaction.fetch_all(statement, **params)
        return await self._read(prepared, params, first=False)

    async def execute(self, statement: AnyStatement, /, **params: Any) -> int:
        """Run a statement in a transaction of its own; how many rows it changed."""
        async with self.transaction() as transaction:
            return await transaction.execute(statement, **params)

    async def execute_many(self, statement: AnyStatement, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Run a statement once per mapping, in one transaction."""
        async with self.transaction() as transaction:
            await transaction.execute_many(statement, rows)

    def transaction(self, *, durable: bool = True, offload: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """See `kit.db.Database.transaction`."""
        return SqliteTransaction(self, durable=durable, offload=offload)

    @property
    def shared(self) -> bool:
        """False: of several processes, one alone has a relay and workers."""
        return False

    def changes(self) -> int:
        """A number that stays as long as nobody commits anything, whether in this process or in another."""
        try:
            return int(self._reader.execute("PRAGMA data_version").get)
        except apsw.Error:
            return time.monotonic_ns()  # it cannot be seen: as if somebody had

    @property
    def elsewhere(self) -> Callable[[], int] | None:
        """See `kit.db.Database.elsewhere`: it looks into the file's header, which costs 2.4 µs."""
        return None if self._alone else self._look_elsewhere

    def note_begin(self) -> None:
        """Note that a transaction has begun: up to its end no other process commits."""
        if not self._alone:
            self._look_elsewhere()

    def commit(self, *, invalidate: bool) -> None:
        """Commit what is open; with `invalidate`, others see a change of `elsewhere` with it. Raises apsw.Error."""
        if not invalidate or self._alone:
            self.writer.execute("COMMIT")
            return
        edition = (self.writer.execute(_EDITION).get + 1) % _EDITIONS
        self.writer.execute(f"{_EDITION} = {edition}", can_cache=False)
        self.writer.execute("COMMIT")
        self._edition = edition  # this one was not elsewhere

    async def reader(self, key: str) -> Executor:
        """See `kit.db.Database.reader`: this database itself."""
        return self

    async def note_write(self, key: str) -> None:
        """See `kit.db.Database.note_write`: there is no replica."""

    async def settled(self) -> None:
        """Return when every commit that could be read up to now is on disk."""
        if self.group is not None and (self.group.busy or not self._alone):
            await self.group.submit(())

    async def forget(self) -> bool:
        """Empty the log, which holds what was deleted or overwritten since long ago; the file itself keeps none of it.

        False while somebody reads or writes: ask again. Raises DatabaseUnavailable.
        """
        self.check_open()
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._empty_log)

    async def close(self) -> None:
        """Wait for the running transaction and for the disk, then close."""
        if self._closed:
            return
        self._closed = True
        async with self.lock:
            if self.group is not None:
                await self.group.close()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._pool.shutdown)
            self._close_connections()

    def check_open(self) -> None:
        """Raises DatabaseUnavailable when nothing more can be done here."""
        if self._closed:
            raise DatabaseUnavailable(f"database {self.name} is closed")
        if self.group is not None and self.group.failed is not None:
            raise self.group.failed

    def resolve(self, statement: AnyStatement, params: dict[str, Any]) -> tuple[Prepared, dict[str, Any]]:
        """The compiled statement, and the call's parameters with the values that stand in the statement itself."""
        if isinstance(statement, Statement):
            return statement.prepare(self._dialect), params
        prepared, literals = self._dynamic.prepare(statement)
        return prepared, {**literals, **params} if literals else params

    async def in_thread(self, work: Callable[[], T], guard: Guard) -> T:
        """Run `work` in a thread; when the caller is cancelled, stop the statement and wait for it to end."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            guard.cancelled = True
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError:
                    continue  # the connection must be ours again before anything else may happen on it
            guard.cancelled = False
            if not future.cancelled():
                future.exception()  # read, or asyncio reports it as forgotten
            raise

    def after_commit(self) -> None:
        """Move the log into the database file, off the loop, when it has grown long."""
        if self._pages < _CHECKPOINT_PAGES or self._checkpointing:
            return
        mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if self._pages >= _TRUNCATE_PAGES else apsw.SQLITE_CHECKPOINT_PASSIVE
        self._checkpointing = True
        self._pool.submit(self._checkpoint, mode)

    def _look_elsewhere(self) -> int:
        if self.owner is None:  # else the writer may be at work in a thread
            try:
                edition = self.writer.execute(_EDITION).get
            except apsw.Error:
                edition = -1  # it cannot be told: another one, and once more when it can
            if edition != self._edition or edition < 0:
                self._edition = edition
                self._elsewhere += 1
        return self._elsewhere

    def _checkpoint(self, mode: int) -> None:
        try:
            self._thread_connection()[0].wal_checkpoint(mode=mode)
        except apsw.Error:
            pass  # somebody reads or writes: the next commit asks again
        finally:
            self._pages = 0
            self._checkpointing = False

    def _empty_log(self) -> bool:
        connection = self._thread_connection()[0]
        connection.set_busy_timeout(_FORGET_PATIENCE)
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (apsw.BusyError, apsw.LockedError):
            return False
        except apsw.Error as error:
            raise translate(error, self.name) from None
        finally:
            connection.set_busy_timeout(int(self.lock_timeout * 1000))
        return True

    def _on_wal(self, connection: apsw.Connection, schema: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK

    async def _read(self, prepared: Prepared, params: Mapping[str, Any], *, first: bool) -> list[Row]:
        if self._closed:
            self.check_open()
        sql, values = prepared.bind(params)
        observe, started = self.observe, time.monotonic()
        if prepared.slow_until < started:
            self._reader_guard.deadline = time.thread_time() + self._budget
            try:
                rows = prepared.rows(fetch(self._reader, sql, values, first))
                if observe is not None:
                    observe("read", time.monotonic() - started)
                return rows
            except apsw.InterruptError:
                prepared.was_slow(time.monotonic())
            except (apsw.BusyError, apsw.LockedError):
                pass  # a thread may wait for the lock, the loop may not
            except (apsw.Error, TypeError, ValueError, OverflowError) as error:
                raise translate(error, self.name) from None
        guard = Guard()

        def work() -> list[Row]:
            connection, thread_guard = self._thread_connection()
            connection.set_progress_handler(guard, _STEPS)
            guard.deadline = time.monotonic() + self.statement_timeout
            try:
                return prepared.rows(fetch(connection, sql, values, first))
            finally:
                connection.set_progress_handler(thread_guard, _STEPS)

        try:
            rows = await self.in_thread(work, guard)
        except (apsw.Error, TypeError, ValueError, OverflowError) as error:
            raise translate(error, self.name) from None
        if observe is not None:
            observe("read", time.monotonic() - started)
        return rows

    def _thread_connection(self) -> tuple[apsw.Connection, Guard]:
        pair: tuple[apsw.Connection, Guard] | None = getattr(self._local, "pair", None)
        if pair is None:
            pair = self._local.pair = self._connect()
            pair[0].set_busy_timeout(int(self.lock_timeout * 1000))
        return pair

    def _connect(self, *, read_only: bool = False) -> tuple[apsw.Connection, Guard]:
        connection = apsw.Connection(str(self.path), statementcachesize=256)
        self._connections.append(connection)
        connection.set_busy_timeout(0 if self._connections[1:] else int(self.lock_timeout * 1000))
        if connection.pragma("journal_mode") != "wal":
            connection.pragma("journal_mode", "wal")
        # Commits are synced by GroupCommit; SQLite itself syncs around checkpoints.
        connection.pragma("synchronous", "normal")
        connection.pragma("foreign_keys", True)
        connection.pragma("secure_delete", True)  # what is deleted is overwritten; costs nothing that can be measured
        connection.pragma("temp_store", "memory")
        connection.pragma("cache_size", -16_000)
        if read_only:
            connection.pragma("query_only", True)
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # a damaged file shows here, by name
        connection.set_busy_timeout(0)
        guard = InlineGuard() if read_only else Guard()
        connection.set_progress_handler(guard, _STEPS)
        return connection, guard

    def _close_connections(self) -> None:
        for connection in reversed(self._connections):
            connection.close(True)
        self._connections.clear()

    def _cannot_open(self, error: Exception) -> Exception:
        if isinstance(error, OSError):
            return DatabaseUnavailable(f"database {self.name} cannot be opened: {error.strerror}")
        return translate(error, self.name)

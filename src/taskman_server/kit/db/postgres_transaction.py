"""One transaction of a `PostgresDatabase`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.db.errors import DatabaseError, DatabaseUnavailable
from taskman_server.kit.db.postgres_errors import FAILURES, is_lost, translate
from taskman_server.kit.db.sqlite_sync import run_callbacks
from taskman_server.kit.db.statements import Prepared, Row, Statement

if TYPE_CHECKING:
    from taskman_server.kit.db import AnyStatement, Transaction
    from taskman_server.kit.db.postgres import PostgresDatabase
    from taskman_server.kit.db.postgres_pool import Session

_HASH = sa.func.hashtextextended(bindparam("name", type_=sa.Text), 0)
_TURN = Statement(sa.select(sa.func.pg_advisory_xact_lock(_HASH)))
_BEGIN = "BEGIN"
_BEGIN_LOOSE = "BEGIN; SET LOCAL synchronous_commit = off"


class PostgresTransaction:
    """BEGIN on entering, COMMIT or ROLLBACK on leaving. Implements `kit.db.Transaction`."""

    __slots__ = ("_active", "_callbacks", "_db", "_durable", "_failed", "_lock", "_savepoints", "_session", "_task")

    _session: Session

    def __init__(self, db: PostgresDatabase, *, durable: bool) -> None:
        """Nothing happens before it is entered."""
        self._db = db
        self._durable = durable
        self._active = False
        self._failed = False
        self._savepoints = 0
        self._callbacks: list[Callable[[], None]] = []
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None

    async def __aenter__(self) -> Transaction:
        """Take a connection and begin. One that died while it was at rest is replaced: nothing was done yet."""
        db = self._db
        db.check_alone()
        task = self._task = asyncio.current_task()
        self._session = await db.begin(_BEGIN if self._durable else _BEGIN_LOOSE)
        if task is not None:
            db.owners.add(task)
        self._active = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or roll back after an exception."""
        db = self._db
        self._active = False
        if self._task is not None:
            db.owners.discard(self._task)
        if kind is not None and not issubclass(kind, Exception):
            db.pool.clean(self._session)
            return
        # A task of its own: whoever is cancelled here gets a commit that is whole, with its callbacks, or none.
        ending = asyncio.get_running_loop().create_task(
            self._roll_back() if kind is not None or self._failed else self._commit()
        )
        db.keep(ending)
        await asyncio.shield(ending)
        if kind is None and self._failed:
            raise DatabaseError(
                f"a statement in this transaction on {db.name} failed, so nothing was committed: let its error pass,"
                " or put what may fail in a savepoint"
            )

    async def fetch_one(self, statement: AnyStatement, /, **params: Any) -> Row | None:
        """The first row, or None."""
        prepared, params = self._db.resolve(statement, params)
        sql, values = prepared.bind(params)
        raw = await self._run(prepared, "fetchrow", sql, values)
        return None if raw is None else prepared.row(raw)

    async def fetch_all(self, statement: AnyStatement, /, **params: Any) -> list[Row]:
        """All rows, those that this transaction has written included."""
        prepared, params = self._db.resolve(statement, params)
        sql, values = prepared.bind(params)
        return prepared.rows(await self._run(prepared, "fetch", sql, values))

    async def execute(self, statement: AnyStatement, /, **params: Any) -> int:
        """Run a statement; how many rows it changed."""
        prepared, params = self._db.resolve(statement, params)
        sql, values = prepared.bind(params)
        return changed(await self._run(prepared, "execute", sql, values))

    async def execute_many(self, statement: AnyStatement, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Run a statement once per mapping."""
        prepared, literals = self._db.resolve(statement, {})
        for sql, batch in batches(prepared, literals, rows):
            await self._run(prepared, "executemany", sql, (batch,))

    def on_commit(self, callback: Callable[[], None], /) -> None:
        """Call back once the commit is durable; never after a rollback."""
        self._callbacks.append(callback)

    def invalidate(self) -> None:
        """See `kit.db.Transaction.invalidate`: nobody can be told here, so nobody remembers without asking."""

    async def take_turn(self, name: str, /) -> None:
        """Wait until no other transaction holds the name, then hold it to the end of this one."""
        await self.fetch_one(_TURN, name=name)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that can fail alone."""
        self._check()
        self._savepoints += 1
        name = f"s{self._savepoints}"
        callbacks = len(self._callbacks)
        await self._control(f"SAVEPOINT {name}")
        try:
            yield
            if self._failed:
                raise DatabaseError("a statement in this savepoint failed, so it was undone: let its error pass")
        except BaseException:
            del self._callbacks[callbacks:]
            # In a task of its own: a time limit inside the transaction may end the block, and be caught outside of it.
            undoing = asyncio.get_running_loop().create_task(self._undo(name))
            self._db.keep(undoing)
            await asyncio.shield(undoing)
            raise
        await self._control(f"RELEASE {name}")

    async def _run(self, prepared: Prepared, method: str, sql: str, values: Sequence[Any]) -> Any:
        db = self._db
        async with self._lock:
            self._check()
            started = perf_counter() if db.observe is not None else 0.0
            try:
                answer = await getattr(self._session.driver, method)(sql, *values)
            except FAILURES as error:
                self._failed = True
                raise self._translated(error) from None
            except BaseException:
                self._failed = True
                raise
            if db.observe is not None:
                db.observe("write" if prepared.writes else "read", perf_counter() - started)
            return answer

    async def _control(self, sql: str) -> None:
        async with self._lock:
            try:
                await self._session.driver.execute(sql)
            except FAILURES as error:
                self._failed = True
                raise self._translated(error) from None

    async def _undo(self, savepoint: str) -> None:
        if self._session.driver.is_closed():
            self._failed = True
            return
        await self._control(f"ROLLBACK TO {savepoint}; RELEASE {savepoint}")
        self._failed = False

    def _translated(self, error: BaseException) -> DatabaseError:
        if is_lost(error):
            self._db.pool.flush()
        return translate(error, self._db.name)

    def _check(self) -> None:
        if not self._active:
            raise RuntimeError("this transaction has ended: use it inside its `async with` block only")
        if self._failed:
            raise DatabaseError(
                f"an earlier statement in this transaction on {self._db.name} failed: let its error pass, or put what"
                " may fail in a savepoint"
            )

    async def _commit(self) -> None:
        db, session = self._db, self._session
        started = perf_counter() if db.observe is not None else 0.0
        try:
            await session.driver.execute("COMMIT")
        except FAILURES as error:
            if is_lost(error):
                db.pool.discard(session)
                db.pool.flush()
                raise DatabaseUnavailable(
                    f"database {db.name}: the connection was lost during the commit; whether it was committed is not"
                    " known"
                ) from None
            db.pool.clean(session)
            raise translate(error, db.name) from None
        except BaseException:
            db.pool.clean(session)
            raise
        if db.observe is not None:
            db.observe("commit", perf_counter() - started)
        db.pool.release(session)
        db.loose = db.loose or not self._durable
        run_callbacks(self._callbacks)

    async def _roll_back(self) -> None:
        db, session = self._db, self._session
        if session.driver.is_closed():
            db.pool.discard(session)
            return
        try:
            await session.driver.execute("ROLLBACK")
        except FAILURES:
            session.driver.terminate()
        except BaseException:
            db.pool.clean(session)
            raise
        db.pool.release(session)


def changed(status: str) -> int:
    """How many rows a statement changed, from what the server calls it: `INSERT 0 3`, `UPDATE 1`, `SELECT 5`."""
    words = status.split()
    return int(words[-1]) if words and words[0] in ("INSERT", "UPDATE", "DELETE", "MERGE") else 0


def batches(
    prepared: Prepared, literals: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[Sequence[Any]]]]:
    """The calls of an execute_many by their text, in order; the text differs only where a list is written out."""
    found: list[tuple[str, list[Sequence[Any]]]] = []
    for row in rows:
        sql, values = prepared.bind({**literals, **row} if literals else row)
        if not found or found[-1][0] != sql:
            found.append((sql, []))
        found[-1][1].append(values)
    return found

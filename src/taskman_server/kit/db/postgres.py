"""PostgreSQL through asyncpg: a pool of connections, each statement prepared once per connection.

Transactions are READ COMMITTED. A statement outside a transaction is one round trip. A connection that is lost is
replaced without anybody's doing; a read that was under way on it is made again, a write never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg  # type: ignore[import-untyped]
import sqlalchemy as sa
from sqlalchemy import Dialect

from taskman_server.kit.db import AnyStatement, Executor, Transaction
from taskman_server.kit.db.errors import DatabaseUnavailable
from taskman_server.kit.db.postgres_dialect import DIALECT
from taskman_server.kit.db.postgres_errors import FAILURES, cannot_connect, is_lost, translate
from taskman_server.kit.db.postgres_pool import Pool, PoolStats, Session
from taskman_server.kit.db.postgres_transaction import PostgresTransaction, batches, changed
from taskman_server.kit.db.replica import LocalWriteMarks, Replica, WriteMarks
from taskman_server.kit.db.statements import DynamicCache, Prepared, Row, Statement

__all__ = ["PoolStats", "PostgresDatabase"]

_STATEMENTS = 512  # prepared statements kept per connection
_CONNECT_TIMEOUT = 5.0
_GRACE = 1.0  # seconds that the server has to stop a statement at its time limit before the connection counts as dead
_SYNC = Statement(sa.select(sa.func.pg_logical_emit_message(sa.true(), "taskman", "")))


class PostgresDatabase:
    """One service's database on a server. Implements `kit.db.Database`; to be used from one event loop."""

    shared = True
    elsewhere: Callable[[], int] | None = None

    def __init__(
        self,
        url: str,
        *,
        name: str,
        pool_size: int = 10,
        statement_timeout: float = 5.0,
        lock_timeout: float = 5.0,
        idle_timeout: float = 60.0,
        pool_timeout: float = 2.0,
        observe: Callable[[str, float], None] | None = None,
        role: str = "read-write",
    ) -> None:
        """Use `open`, which also connects; see there."""
        self.name = name
        self.observe = observe
        self.statement_timeout = statement_timeout
        self.owners: set[asyncio.Task[Any]] = set()
        self.loose = False  # whether a commit was not waited for since `settled`
        self._url = url
        self._role = role
        self._dynamic = DynamicCache(DIALECT)
        self._settings = {
            "application_name": f"taskman-{name}",
            "timezone": "UTC",
            "statement_timeout": _milliseconds(statement_timeout),
            "lock_timeout": _milliseconds(lock_timeout),
            "idle_in_transaction_session_timeout": _milliseconds(idle_timeout),
            "jit": "off",
            "random_page_cost": "1.1",  # no disk that turns: rows are looked up by an index, not read through
        }
        self.pool = Pool(name, self._connect, size=pool_size, patience=pool_timeout)
        self._endings: set[asyncio.Task[None]] = set()
        self.replica: Replica | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        pool_size: int = 10,
        statement_timeout: float = 5.0,
        replica_url: str = "",
        marks: WriteMarks | None = None,
        observe: Callable[[str, float], None] | None = None,
        lock_timeout: float = 5.0,
        idle_timeout: float = 60.0,
        pool_timeout: float = 2.0,
    ) -> PostgresDatabase:
        """Connect to `url`, `postgresql://user:pw@host:port/database`; of several hosts, to the one that takes writes.

        Args:
            url: where; several hosts with commas, for a fail-over that the server side arranges.
            name: the service, for messages and for the server's `application_name`.
            pool_size: connections that may be open at once.
            statement_timeout: seconds that a statement may run.
            replica_url: a streaming replica for reads that may lag, see `reader`. One server: what one has replayed
                says nothing about another.
            marks: how far each principal has written; without it, those of this process.
            observe: told the kind (`read`, `write`, `commit`, `wait` for a connection) and the seconds of each query.
            lock_timeout: seconds that a statement waits for another transaction's lock.
            idle_timeout: seconds after which the server ends a transaction that does nothing.
            pool_timeout: seconds that one waits for a connection of the pool.

        Raises DatabaseUnavailable when no connection can be made now. A replica that is away is none.
        """

        def make(url: str, name: str, role: str) -> PostgresDatabase:
            return cls(
                url,
                name=name,
                pool_size=pool_size,
                statement_timeout=statement_timeout,
                lock_timeout=lock_timeout,
                idle_timeout=idle_timeout,
                pool_timeout=pool_timeout,
                observe=observe,
                role=role,
            )

        db = make(url, name, "read-write")
        db.pool.release(await db.pool.acquire())
        if replica_url:
            db.replica = Replica(db, make(replica_url, f"{name}-replica", "any"), marks or LocalWriteMarks())
        return db

    @property
    def dialect(self) -> Dialect:
        """The PostgreSQL dialect with `$1` parameters."""
        return DIALECT

    def prepare(self, *statements: Statement) -> None:
        """Compile statements now."""
        for statement in statements:
            statement.prepare(DIALECT)

    async def fetch_one(self, statement: AnyStatement, /, **params: Any) -> Row | None:
        """The first row, or None."""
        prepared, params = self.resolve(statement, params)
        sql, values = prepared.bind(params)
        raw = await self._run(prepared, "fetchrow", sql, values)
        return None if raw is None else prepared.row(raw)

    async def fetch_all(self, statement: AnyStatement, /, **params: Any) -> list[Row]:
        """All rows."""
        prepared, params = self.resolve(statement, params)
        sql, values = prepared.bind(params)
        return prepared.rows(await self._run(prepared, "fetch", sql, values))

    async def execute(self, statement: AnyStatement, /, **params: Any) -> int:
        """Run a statement in a transaction of its own; how many rows it changed."""
        prepared, params = self.resolve(statement, params)
        sql, values = prepared.bind(params)
        return changed(await self._run(prepared, "execute", sql, values))

    async def execute_many(self, statement: AnyStatement, rows: Sequence[Mapping[str, Any]], /) -> None:
        """Run a statement once per mapping, in one transaction."""
        prepared, literals = self.resolve(statement, {})
        calls = batches(prepared, literals, rows)
        if len(calls) == 1:
            sql, batch = calls[0]
            await self._run(prepared, "executemany", sql, (batch,))
        elif calls:
            async with self.transaction() as transaction:
                await transaction.execute_many(statement, rows)

    def transaction(self, *, durable: bool = True, offload: bool = False) -> AbstractAsyncContextManager[Transaction]:
        """See `kit.db.Database.transaction`; nothing runs on the event loop's time here, so `offload` means nothing."""
        return PostgresTransaction(self, durable=durable)

    async def reader(self, key: str) -> Executor:
        """For reads that may lag, but never behind what `key` wrote: the replica when it is that far, or this."""
        return self if self.replica is None else await self.replica.reader(key)

    async def note_write(self, key: str) -> None:
        """Remember that `key` has committed something just now. Does nothing without a replica."""
        if self.replica is not None:
            await self.replica.note_write(key)

    async def settled(self) -> None:
        """Return when every commit of this process up to now is on the server's disk."""
        if self.loose:
            self.loose = False
            try:
                await self.fetch_one(_SYNC)  # a commit that waits for the disk, and so for all before it
            except BaseException:
                self.loose = True
                raise

    async def close(self) -> None:
        """Wait for the running transactions, then close."""
        if self.replica is not None:
            await self.replica.close()
        await self.pool.close(self.statement_timeout + _GRACE)

    @property
    def replica_lag(self) -> float | None:
        """Seconds that the replica was behind when it was last asked; None without one, or while it is away."""
        return None if self.replica is None else self.replica.lag

    def stats(self) -> PoolStats:
        """The pool as it is now, for metrics."""
        return self.pool.stats()

    def resolve(self, statement: AnyStatement, params: dict[str, Any]) -> tuple[Prepared, dict[str, Any]]:
        """The compiled statement, and the call's parameters with the values that stand in the statement itself."""
        if isinstance(statement, Statement):
            return statement.prepare(DIALECT), params
        prepared, literals = self._dynamic.prepare(statement)
        return prepared, {**literals, **params} if literals else params

    def check_alone(self) -> None:
        """Raises RuntimeError when this task is inside a transaction, which it might wait for without end."""
        if asyncio.current_task() in self.owners:
            raise RuntimeError(
                f"this task is in a transaction on {self.name} already: pass that one on, or end it first"
            )

    async def begin(self, sql: str) -> Session:
        """A connection on which `sql` has begun a transaction."""
        again = True
        while True:
            session = await self._acquire()
            try:
                await session.driver.execute(sql)
                return session
            except FAILURES as error:
                lost = self._give_back(session, error)
                if not (lost and again) or isinstance(error, TimeoutError):
                    raise translate(error, self.name) from None
                again = False
            except BaseException:
                self.pool.clean(session)
                raise

    def keep(self, ending: asyncio.Task[None]) -> None:
        """Hold on to the end of a transaction whose task may be gone."""
        self._endings.add(ending)
        ending.add_done_callback(self._forget)

    async def _run(self, prepared: Prepared, method: str, sql: str, values: Sequence[Any]) -> Any:
        """One statement on a connection of its own."""
        again = prepared.repeatable
        if not again:
            self.check_alone()
        while True:
            session = await self._acquire()
            started = perf_counter() if self.observe is not None else 0.0
            try:
                answer = await getattr(session.driver, method)(sql, *values)
            except FAILURES as error:
                lost = self._give_back(session, error)
                if lost and again and not isinstance(error, TimeoutError):
                    again = False
                    continue
                if lost and not prepared.repeatable:
                    raise DatabaseUnavailable(
                        f"database {self.name}: the connection was lost during a write; whether it was committed is"
                        " not known"
                    ) from None
                raise translate(error, self.name) from None
            except BaseException:
                self.pool.clean(session)
                raise
            self.pool.release(session)
            if self.observe is not None:
                self.observe("write" if prepared.writes else "read", perf_counter() - started)
            return answer

    def _give_back(self, session: Session, error: BaseException) -> bool:
        """Give back the connection of a failed statement; whether it is lost, and with it what one knew of the rest."""
        if is_lost(error) or session.driver.is_closed():
            session.driver.terminate()
            self.pool.discard(session)
            self.pool.flush()
            return True
        self.pool.release(session)
        return False

    async def _acquire(self) -> Session:
        if self.observe is None:
            return await self.pool.acquire()
        started = perf_counter()
        session = await self.pool.acquire()
        self.observe("wait", perf_counter() - started)
        return session

    def _forget(self, ending: asyncio.Task[None]) -> None:
        self._endings.discard(ending)
        if not ending.cancelled():
            ending.exception()  # read, or asyncio reports it as forgotten when its caller was cancelled

    async def _connect(self) -> Any:
        return await connect(
            self._url, self.name, self._settings, role=self._role, command_timeout=self.statement_timeout + _GRACE
        )


async def connect(
    url: str, name: str, settings: Mapping[str, str], *, role: str = "read-write", command_timeout: float | None = None
) -> Any:
    """A bare connection of the driver; of several hosts, to the first in `role`.

    Raises DatabaseUnavailable that says what is wrong, without the password.
    """
    database, address = "", "its server"
    try:
        parts = urlsplit(url)
        database, address = parts.path.lstrip("/"), parts.netloc.rpartition("@")[2] or "the local socket"
        chooses = "," in address and "target_session_attrs" not in parse_qs(parts.query)
        return await asyncpg.connect(
            url,
            timeout=_CONNECT_TIMEOUT,
            command_timeout=command_timeout,
            statement_cache_size=_STATEMENTS,
            max_cached_statement_lifetime=0,
            server_settings=dict(settings),
            target_session_attrs=role if chooses else None,
        )
    except FAILURES as error:
        raise cannot_connect(error, name, database, address) from None


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1000)))

"""PostgreSQL: the pool, locks, deadlocks, time limits, types, and what its errors tell."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.schema import CreateTable

from taskman_server.kit.db import (
    DatabaseUnavailable,
    Statement,
    StatementTimeout,
    Transaction,
    TransactionConflict,
)
from taskman_server.kit.db.postgres import PostgresDatabase
from tests.parts.postgresql import PostgreSQL
from tests.store.support import COUNT, GET, LONG, NOTES, PUT, count, create_tables, until

OpenPostgres: TypeAlias = Callable[..., Awaitable[PostgresDatabase]]

TOUCH = Statement(sa.update(NOTES).where(NOTES.c.id == bindparam("which")).values(text=bindparam("text")))


@pytest.fixture
def kind() -> str:
    """Each test runs on PostgreSQL."""
    return "postgresql"


@pytest.fixture
async def small(open_db: OpenPostgres, db: PostgresDatabase) -> PostgresDatabase:
    """Two connections, and no patience."""
    return await open_db(pool_size=2, pool_timeout=0.05, lock_timeout=0.2)


async def sessions(db: PostgresDatabase, state: str) -> int:
    """Connections to this database in a state, other than the one that asks."""
    row = await db.fetch_one(
        Statement(
            sa.text(
                "SELECT count(*) AS n FROM pg_stat_activity"
                " WHERE datname = current_database() AND state = :state AND pid <> pg_backend_pid()"
            ).columns(n=sa.Integer)
        ),
        state=state,
    )
    assert row is not None
    return int(row.n)


async def test_an_exhausted_pool_is_said_soon_and_heals(small: PostgresDatabase) -> None:
    """OPS-2: a bounded wait, not a queue without end."""
    async with small.transaction(), asyncio.TaskGroup() as group:
        entered, go_on = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with small.transaction():
                entered.set()
                await go_on.wait()

        group.create_task(hold())
        await entered.wait()
        assert small.stats() == (2, 0, 0, 2)
        waiting = asyncio.create_task(count(small))
        await asyncio.sleep(0)
        assert small.stats().waiting == 1
        with pytest.raises(DatabaseUnavailable, match="pool exhausted, all 2 connections"):
            await waiting
        assert small.stats().waiting == 0
        go_on.set()
    assert await count(small) == 0
    assert small.stats() == (2, 2, 0, 2)


async def test_those_who_wait_for_a_connection_get_it_in_turn(small: PostgresDatabase) -> None:
    """Also when one of them gives up, before a connection was handed to it or just afterwards."""
    pool = small.pool
    held = [await pool.acquire(), await pool.acquire()]
    waiting = [asyncio.create_task(pool.acquire()) for _ in range(5)]
    await asyncio.sleep(0)
    assert pool.stats() == (2, 0, 5, 2)
    waiting[1].cancel()
    pool.release(held[0])
    pool.release(held[1])
    waiting[2].cancel()
    await asyncio.wait(waiting[:4])
    assert [task.cancelled() for task in waiting[:4]] == [False, True, True, False]
    assert not waiting[4].done()
    held[1].driver.terminate()
    pool.discard(waiting[3].result())
    fresh = await waiting[4]
    assert not fresh.driver.is_closed(), "whoever waits opens a connection in the place of a lost one"
    pool.release(fresh)
    pool.release(waiting[0].result())
    assert pool.stats() == (2, 2, 0, 2)


async def until_idle(db: PostgresDatabase) -> None:
    async def idle() -> bool:
        return db.stats().size == db.stats().idle

    await until(idle)


async def test_of_two_that_wait_for_each_other_one_is_told_to_run_again(db: PostgresDatabase) -> None:
    """A deadlock is found by the server; the loser has written nothing, the winner all."""
    await db.execute_many(PUT, [{"id": "1", "text": ""}, {"id": "2", "text": ""}])
    both = asyncio.Barrier(2)

    async def swap(name: str, first: str, second: str) -> None:
        async with db.transaction() as tx:
            await tx.execute(TOUCH, which=first, text=name)
            await both.wait()
            await tx.execute(TOUCH, which=second, text=name)

    ends = await asyncio.gather(swap("a", "1", "2"), swap("b", "2", "1"), return_exceptions=True)
    assert [type(end) for end in ends if end is not None] == [TransactionConflict]
    winner = "a" if ends[0] is None else "b"
    assert [row.text for row in await db.fetch_all(sa.select(NOTES.c.text))] == [winner, winner]
    await until_idle(db)


async def test_a_lock_is_waited_for_only_so_long(small: PostgresDatabase, db: PostgresDatabase) -> None:
    """Rows and turns; the one who waited in vain has changed nothing."""
    await db.execute(PUT, id="1", text="")
    async with db.transaction() as tx:
        await tx.execute(TOUCH, which="1", text="mine")
        await tx.take_turn("x")
        with pytest.raises(DatabaseUnavailable, match="lock that another transaction holds"):
            await small.execute(TOUCH, which="1", text="yours")
        with pytest.raises(DatabaseUnavailable, match="lock that another transaction holds"):
            async with small.transaction() as other:
                await other.take_turn("x")
        async with small.transaction() as other:
            await other.take_turn("y")
    async with small.transaction() as other:
        await other.take_turn("x")
    row = await db.fetch_one(GET, id="1")
    assert row is not None
    assert row.text == "mine"


async def test_one_who_gives_up_waiting_for_a_lock_leaves_nothing_on_the_server(db: PostgresDatabase) -> None:
    """The caller hung up: the server stops waiting too, and the connection is as good as new."""
    await db.execute(PUT, id="1", text="")
    async with db.transaction() as tx:
        await tx.execute(TOUCH, which="1", text="mine")
        tasks = [asyncio.create_task(db.execute(TOUCH, which="1", text="yours")) for _ in range(3)]

        async def waiting() -> bool:
            return await sessions(db, "active") == 3

        await until(waiting)
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
        )

        async def free() -> bool:
            return await sessions(db, "active") == 0

        await until(free)
    await until_idle(db)
    assert await sessions(db, "idle in transaction") == 0
    assert db.stats().size >= 4, "they were cleaned, not thrown away"
    row = await db.fetch_one(GET, id="1")
    assert row is not None
    assert row.text == "mine"


async def test_a_cancelled_transaction_is_rolled_back_on_the_server(db: PostgresDatabase) -> None:
    """Its locks are free, and its connection serves again."""
    await db.execute(PUT, id="1", text="")
    inside = asyncio.Event()

    async def work() -> None:
        async with db.transaction() as tx:
            await tx.execute(TOUCH, which="1", text="mine")
            inside.set()
            await asyncio.Event().wait()

    for _ in range(3):
        inside.clear()
        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        await asyncio.wait([task])
    await until_idle(db)
    assert await sessions(db, "idle in transaction") == 0
    async with asyncio.timeout(2):
        await db.execute(TOUCH, which="1", text="yours")
    row = await db.fetch_one(GET, id="1")
    assert row is not None
    assert row.text == "yours"


async def test_a_commit_waits_for_the_disk_unless_told_not_to(db: PostgresDatabase) -> None:
    """`durable`, on the server."""
    show = sa.text("SELECT current_setting('synchronous_commit') AS value")
    for durable, expected in ((True, "on"), (False, "off"), (True, "on")):
        async with db.transaction(durable=durable) as tx:
            row = await tx.fetch_one(show)
            assert row is not None
            assert row[0] == expected
    assert db.loose
    await db.settled()
    assert not db.loose


async def test_a_time_limit_inside_a_transaction_undoes_its_savepoint_alone(db: PostgresDatabase) -> None:
    """`asyncio.timeout` around a savepoint: the rest is committed."""
    async with db.transaction() as tx:
        await tx.execute(PUT, id="1", text="")
        with pytest.raises(TimeoutError):  # noqa: PT012
            async with asyncio.timeout(0.05), tx.savepoint():
                await tx.execute(PUT, id="2", text="")
                await tx.fetch_one(LONG, top=10**12)
        await tx.execute(PUT, id="3", text="")
    assert [row.id for row in await db.fetch_all(sa.select(NOTES.c.id).order_by(NOTES.c.id))] == ["1", "3"]


async def test_an_idle_transaction_is_ended_and_its_owner_told(db: PostgresDatabase, open_db: OpenPostgres) -> None:
    """It would hold its locks for ever."""
    hasty = await open_db(idle_timeout=0.05)
    with pytest.raises(DatabaseUnavailable):  # noqa: PT012
        async with hasty.transaction() as tx:
            await tx.execute(PUT, id="1", text="")

            async def ended() -> bool:
                return await sessions(db, "idle in transaction") == 0

            await until(ended)
            await tx.execute(PUT, id="2", text="")
    await hasty.execute(PUT, id="3", text="")
    assert await count(hasty) == 1


async def test_a_schema_that_changes_under_a_prepared_statement_costs_one_more_run(db: PostgresDatabase) -> None:
    """OPS-7: a migration while old processes serve."""
    every = Statement(sa.select(sa.literal_column("*")).select_from(NOTES))
    await db.fetch_all(every)
    async with db.transaction() as tx:
        await tx.fetch_all(every)
    await db.execute(sa.text("ALTER TABLE notes ADD COLUMN more text"))
    with pytest.raises(TransactionConflict, match="schema"):
        async with db.transaction() as tx:
            await tx.fetch_all(every)
    async with db.transaction() as tx:
        await tx.fetch_all(every)
    await db.execute(sa.text("ALTER TABLE notes ADD COLUMN and_more text"))
    assert await db.fetch_all(every) == []


async def test_numbers_bytes_and_lists_of_times_come_back_as_they_were(db: PostgresDatabase) -> None:
    """Types that SQLite's suite does not have, and IN lists of converted values."""
    table = sa.Table(
        "kinds",
        sa.MetaData(),
        sa.Column("id", sa.BigInteger, primary_key=True),
        sa.Column("exact", sa.Numeric(20, 4)),
        sa.Column("about", sa.Double),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("time", NOTES.c.time.type),
    )
    await db.execute(CreateTable(table))
    now = datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
    insert = Statement(sa.insert(table))
    await db.execute(insert, id=2**40, exact=Decimal("1.2500"), about=1.5e300, raw=b"\0\xff", time=now)
    row = await db.fetch_one(sa.select(table))
    assert row is not None
    assert tuple(row) == (2**40, Decimal("1.2500"), 1.5e300, b"\0\xff", now)
    assert isinstance(row.raw, bytes)
    row = await db.fetch_one(sa.select(sa.func.avg(table.c.exact).label("a"), sa.func.sum(table.c.about).label("s")))
    assert row is not None
    assert (row.a, row.s) == (Decimal("1.25"), 1.5e300)
    by_time = Statement(sa.select(table.c.id).where(table.c.time.in_(bindparam("times", expanding=True))))
    assert len(await db.fetch_all(by_time, times=[now, now.replace(year=2031)])) == 1
    assert await db.fetch_all(by_time, times=[]) == []
    assert by_time.prepare(db.dialect).bind({"times": [now]})[0] == by_time.prepare(db.dialect).bind({"times": []})[0]


async def test_what_queries_cost_is_told(open_db: OpenPostgres) -> None:
    """OBS-1: for metrics, by kind."""
    seen: list[tuple[str, float]] = []
    db = await open_db(observe=lambda kind, seconds: seen.append((kind, seconds)))
    await create_tables(db)
    seen.clear()
    await count(db)
    async with db.transaction() as tx:
        await tx.execute(PUT, id="1", text="")
    assert [kind for kind, _ in seen] == ["wait", "read", "wait", "write", "commit"]
    assert all(0 <= seconds < 5 for _, seconds in seen)


async def test_a_session_is_as_the_operator_expects(db: PostgresDatabase, postgresql: PostgreSQL) -> None:
    """OPS-8: who is connected is seen on the server, times are UTC, everything has a limit."""
    row = await db.fetch_one(
        sa.text(
            "SELECT current_setting('application_name'), current_setting('timezone'),"
            " current_setting('statement_timeout'), current_setting('lock_timeout'),"
            " current_setting('idle_in_transaction_session_timeout'), current_setting('transaction_isolation')"
        )
    )
    assert row is not None
    assert tuple(row) == ("taskman-kit", "UTC", "5s", "5s", "1min", "read committed")


async def test_a_statement_that_changes_rows_inside_a_select_is_never_repeated(db: PostgresDatabase) -> None:
    """`WITH x AS (INSERT …) SELECT`, texts and functions that are not known."""
    added = sa.insert(NOTES).values(id="1").returning(NOTES.c.id).cte("added")
    for statement, repeatable in (
        (GET, True),
        (COUNT, True),
        (PUT, False),
        (Statement(sa.select(added.c.id)), False),
        (Statement(sa.text("SELECT 1")), False),
    ):
        assert statement.prepare(db.dialect).repeatable is repeatable
    assert [row.id for row in await db.fetch_all(sa.select(added.c.id))] == ["1"]
    assert await count(db) == 1


async def test_a_statement_timeout_ends_the_transaction_of_many_rows(open_db: OpenPostgres) -> None:
    """Nothing of it stays."""
    db = await open_db(statement_timeout=0.05)
    await create_tables(db)

    async def work(tx: Transaction, **params: Any) -> None:
        await tx.execute(PUT, id="1", text="")
        await tx.fetch_one(LONG, **params)

    with pytest.raises(StatementTimeout):
        async with db.transaction() as tx:
            await work(tx, top=10**12)
    assert await count(db) == 0
    assert db.stats().size == db.stats().idle == 1


async def test_a_server_without_connections_to_give_makes_callers_wait_for_ours(postgresql: PostgreSQL) -> None:
    """OPS-2: two replicas of each service want more connections than PostgreSQL gives by default. What they have got
    serves everybody, and what they may open is opened once the server has some to give."""
    role = f"narrow_{secrets.token_hex(4)}"
    url = postgresql.database("narrow").replace("://taskman:", f"://{role}:")
    password = urlsplit(url).password
    postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}' CONNECTION LIMIT 2")
    nap = Statement(sa.text("SELECT 1 AS n, pg_sleep(0.02)").columns(n=sa.Integer))
    narrow = await PostgresDatabase.open(url, name="narrow", pool_size=8, pool_timeout=5)
    other = await PostgresDatabase.open(url, name="other", pool_size=8)

    async def naps() -> list[int]:
        rows = await asyncio.gather(*(narrow.fetch_one(nap) for _ in range(40)))
        return [row.n for row in rows if row is not None]

    async def grown() -> bool:
        await naps()
        return narrow.stats().size == 8

    try:
        assert await naps() == [1] * 40
        assert narrow.stats() == (1, 1, 0, 8)
        await other.close()
        postgresql.execute(f"ALTER ROLE {role} CONNECTION LIMIT 1")
        with pytest.raises(DatabaseUnavailable, match="takes no more connections: raise max_connections"):
            await PostgresDatabase.open(url, name="third")
        postgresql.execute(f"ALTER ROLE {role} CONNECTION LIMIT 20")
        await until(grown)
        assert await naps() == [1] * 40
    finally:
        await narrow.close()

"""PostgreSQL goes away: restarted, killed, cut off, failed over. Nothing is lost that was told to be kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from taskman_server.kit.db import DatabaseUnavailable, Statement
from taskman_server.kit.db.postgres import PostgresDatabase
from tests.parts.postgresql import PostgreSQL, private_postgresql, private_replica
from tests.parts.proxy import TcpProxy
from tests.store.support import GET, NOTES, PUT, count, create_tables, until

SLOW_READ = Statement(
    sa.select(sa.func.count().label("n")).select_from(sa.select(sa.func.pg_sleep(0.2).label("x")).subquery())
)
SLOW_WRITE = Statement(
    sa.insert(NOTES).from_select(["id", "text"], sa.select(sa.literal("1"), sa.cast(sa.func.pg_sleep(0.2), sa.Text)))
)


@pytest.fixture
def proxy(postgresql: PostgreSQL) -> Iterator[TcpProxy]:
    """A network between the tests and an empty database."""
    with TcpProxy(postgresql.database("loss")) as between:
        yield between


@pytest.fixture
async def db(proxy: TcpProxy) -> AsyncIterator[PostgresDatabase]:
    """A database behind the network."""
    database = await PostgresDatabase.open(proxy.url, name="loss", statement_timeout=2.0)
    await create_tables(database)
    yield database
    proxy.heal()
    await database.close()


async def end_the_one_that_runs(url: str, but: int = 0) -> int:
    """Ends the session of the slow statement, as an administrator might; its process id, which is not `but`."""
    other = await PostgresDatabase.open(url, name="other")
    end = Statement(
        sa.text(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state = 'active' AND query LIKE '%pg_sleep%' AND pid NOT IN (pg_backend_pid(), :but)"
        ).columns(pid=sa.Integer)
    )
    ended = await until(lambda: other.fetch_all(end, but=but))
    await other.close()
    return int(ended[0].pid)


async def test_a_read_whose_connection_dies_is_made_again_and_a_write_is_not(
    db: PostgresDatabase, proxy: TcpProxy
) -> None:
    """OPS-2: the caller of a read notices nothing; the caller of a write is told that nobody knows."""
    reading = asyncio.create_task(db.fetch_one(SLOW_READ))
    await end_the_one_that_runs(proxy.url)
    row = await reading
    assert row is not None
    assert row.n == 1
    writing = asyncio.create_task(db.execute(SLOW_WRITE))
    await end_the_one_that_runs(proxy.url)
    with pytest.raises(DatabaseUnavailable, match="whether it was committed is not known"):
        await writing
    assert await count(db) == 0


async def test_a_read_is_made_again_only_once(db: PostgresDatabase, proxy: TcpProxy) -> None:
    """A read that kills its server would do so for ever."""
    reading = asyncio.create_task(db.fetch_one(SLOW_READ))
    first = await end_the_one_that_runs(proxy.url)
    await end_the_one_that_runs(proxy.url, but=first)
    with pytest.raises(DatabaseUnavailable):
        await reading


async def test_a_transaction_that_loses_its_connection_has_committed_nothing(
    db: PostgresDatabase, proxy: TcpProxy
) -> None:
    """Before the commit it is certain, and said so; the next one works by itself."""
    called: list[str] = []
    with pytest.raises(DatabaseUnavailable) as caught:  # noqa: PT012
        async with db.transaction() as tx:
            tx.on_commit(lambda: called.append("never"))
            await tx.execute(PUT, id="1", text="")
            proxy.cut()
            await tx.execute(PUT, id="2", text="")
    assert "not known" not in str(caught.value)
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await count(db)
    proxy.heal()
    async with db.transaction() as tx:
        await tx.execute(PUT, id="3", text="")
    assert await count(db) == 1
    assert called == []


async def test_connections_that_died_at_rest_are_noticed_by_nobody(db: PostgresDatabase, proxy: TcpProxy) -> None:
    """After a short interruption of the network: reads and transactions just work."""
    await asyncio.gather(*(db.fetch_one(SLOW_READ) for _ in range(5)))
    assert db.stats().idle == 5
    proxy.cut()
    proxy.heal()
    async with db.transaction() as tx:
        await tx.execute(PUT, id="1", text="")
    proxy.cut()
    proxy.heal()
    assert await count(db) == 1


async def test_a_commit_that_is_not_answered_is_told_as_such(db: PostgresDatabase, proxy: TcpProxy) -> None:
    """EVENT-1: neither "done" nor "not done" is said when nobody knows."""
    called: list[str] = []

    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            tx.on_commit(lambda: called.append("told"))
            proxy.freeze()

    writing = asyncio.create_task(write())
    with pytest.raises(DatabaseUnavailable, match="during the commit; whether it was committed is not known"):
        await writing
    assert called == []


async def test_who_is_cancelled_during_the_commit_gets_it_whole(db: PostgresDatabase, proxy: TcpProxy) -> None:
    """Committed with its callbacks, or neither: here the commit is under way and comes through."""
    called = asyncio.Event()
    committing = asyncio.Event()

    async def write() -> None:
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            tx.on_commit(called.set)
            proxy.delay(0.05)
            committing.set()

    writing = asyncio.create_task(write())
    await committing.wait()
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert not called.is_set()
    await asyncio.wait_for(called.wait(), 20)
    proxy.delay(0)
    assert await count(db) == 1
    assert db.stats().size == db.stats().idle


async def test_a_network_that_swallows_everything_does_not_hold_anybody_for_long(
    db: PostgresDatabase, proxy: TcpProxy
) -> None:
    """No answer is an answer after the statement's time limit and a second; then everything works again."""
    await asyncio.gather(db.execute(PUT, id="1", text=""), count(db))
    assert db.stats().idle == 2
    proxy.freeze()
    ends = await asyncio.gather(count(db), db.execute(PUT, id="2", text=""), return_exceptions=True)
    assert [type(end) for end in ends] == [DatabaseUnavailable] * 2
    assert "whether it was committed is not known" in str(ends[1])
    proxy.heal()
    assert await count(db) in (1, 2)
    async with db.transaction() as tx:
        await tx.execute(PUT, id="3", text="")


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_the_server_is_restarted_or_killed_under_load(tmp_path: Path, how: str) -> None:
    """OPS-2: what was acknowledged is there, once; the process reconnects without anybody's doing."""
    with private_postgresql(tmp_path, durable=True) as server:
        db = await PostgresDatabase.open(server.url(), name="load", pool_size=4)
        await create_tables(db)
        told: set[str] = set()
        unknown: set[str] = set()
        failed = 0
        stop = asyncio.Event()

        async def write(writer: int) -> None:
            nonlocal failed
            number = 0
            while not stop.is_set():
                number += 1
                name = f"{writer}-{number}"
                try:
                    if number % 2:
                        await db.execute(PUT, id=name, text="")
                    else:
                        async with db.transaction() as tx:
                            await tx.execute(PUT, id=name, text="")
                except DatabaseUnavailable as error:
                    failed += 1
                    if "not known" in str(error):
                        unknown.add(name)
                    await asyncio.sleep(0.01)
                else:
                    told.add(name)

        async def more(than: int) -> None:
            async def enough() -> bool:
                return len(told) > than

            await until(enough, seconds=60)

        async with asyncio.TaskGroup() as group:
            for writer in range(4):
                group.create_task(write(writer))
            for _ in range(2):
                await more(len(told) + 50)
                if how == "kill":
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                else:
                    await asyncio.to_thread(server.restart)
            await more(len(told) + 50)
            stop.set()
        assert failed
        there = {row.id for row in await db.fetch_all(sa.select(NOTES.c.id))}
        assert told <= there
        assert there - told <= unknown
        assert db.stats().size <= 4
        await db.close()


async def test_after_a_fail_over_the_other_server_of_the_url_is_used(tmp_path: Path) -> None:
    """OPS-2: `postgresql://…@one,two/db`: whichever takes writes, without a restart of the process."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with private_postgresql(tmp_path / "one") as one, private_replica(one, tmp_path / "two") as two:
        parts = urlsplit(one.url())
        login = parts.netloc.rpartition("@")[0]
        url = f"postgresql://{login}@127.0.0.1:{two.port},127.0.0.1:{one.port}/postgres"
        db = await PostgresDatabase.open(url, name="over", pool_size=3)
        await create_tables(db)
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
        await asyncio.to_thread(two.wait_for, one)
        await asyncio.to_thread(one.kill)
        with pytest.raises(DatabaseUnavailable):
            await db.execute(PUT, id="2", text="")
        await asyncio.to_thread(two.execute, "SELECT pg_promote()")

        async def writes() -> bool:
            try:
                async with db.transaction() as tx:
                    await tx.execute(PUT, id="3", text="")
            except DatabaseUnavailable:
                return False
            return True

        await until(writes)
        assert [row.id for row in await db.fetch_all(sa.select(NOTES.c.id).order_by(NOTES.c.id))] == ["1", "3"]
        await db.close()


async def test_a_server_that_became_a_standby_is_left(proxy: TcpProxy, db: PostgresDatabase) -> None:
    """Connections that outlived a fail-over answer "read-only": they are thrown away, not kept for the next one."""
    await db.execute(sa.text("SET default_transaction_read_only = on"))
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
    await db.execute(PUT, id="2", text="")
    assert await db.fetch_one(GET, id="1") is None

"""What a process learns of the commits of others on the same SQLite file, and how it takes turns with them."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.cache import ReadCache
from taskman_server.kit.db import Statement
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.telemetry import CacheUse

_TABLE = sa.Table("items", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("count", sa.Integer))
_GET = Statement(sa.select(_TABLE).where(_TABLE.c.id == bindparam("id")))
_COUNT_UP = Statement(
    sa.update(_TABLE).where(_TABLE.c.id == bindparam("item")).values(count=_TABLE.c.count + 1).returning(_TABLE.c.count)
)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(tmp_path / "x.db", alone=False)
    database.writer.execute(
        "CREATE TABLE items (id TEXT PRIMARY KEY, count INTEGER); INSERT INTO items VALUES ('a', 0)"
    )
    yield database
    await database.close()


@pytest.fixture
def other(db: SqliteDatabase) -> apsw.Connection:
    """Another process as far as SQLite is concerned."""
    connection = apsw.Connection(str(db.path))
    connection.set_busy_timeout(5000)
    return connection


async def test_the_number_changes_with_the_commits_of_others_and_with_no_other(
    db: SqliteDatabase, other: apsw.Connection
) -> None:
    """What this process commits is known to it anyway."""
    assert db.elsewhere is not None
    before = db.elsewhere()
    await db.fetch_one(_COUNT_UP, item="a")
    assert db.elsewhere() == before
    other.execute("UPDATE items SET count = 7")
    after = db.elsewhere()
    assert after != before
    with other:
        other.execute("UPDATE items SET count = 8")
        assert db.elsewhere() == after, "not committed yet"
    assert db.elsewhere() != after


async def test_what_others_committed_before_a_transaction_is_seen_in_it(
    db: SqliteDatabase, other: apsw.Connection
) -> None:
    """The writer may be at work in a thread then, and is not asked."""
    assert db.elsewhere is not None
    before = db.elsewhere()
    other.execute("UPDATE items SET count = 7")
    async with db.transaction() as tx:
        within = db.elsewhere()
        assert within != before
        await tx.execute(_COUNT_UP, item="a")
        assert db.elsewhere() == within
    assert db.elsewhere() == within


async def test_a_process_that_is_alone_is_not_asked(tmp_path: Path) -> None:
    alone = SqliteDatabase(tmp_path / "y.db")
    assert alone.elsewhere is None
    await alone.close()


async def test_a_cache_holds_nothing_that_another_process_may_have_changed(
    db: SqliteDatabase, other: apsw.Connection
) -> None:
    """TASK-1: neither what was kept before the commit, nor what was being read meanwhile."""
    cache: ReadCache[str, int] = ReadCache(10, CacheUse(), db.elsewhere)
    assert cache.get("a") is None
    cache.keep("a", 0, cache.changes)
    assert cache.get("a") == 0
    await db.fetch_one(_COUNT_UP, item="a")
    assert cache.get("a") == 0, "commits of its own process are told by `forget`"
    other.execute("UPDATE items SET count = 7")
    assert cache.get("a") is None
    noted = cache.changes
    other.execute("UPDATE items SET count = 8")
    assert cache.get("b") is None
    cache.keep("a", 7, noted)
    assert cache.get("a") is None


def _count_up(path: str, rounds: int, tasks: int) -> None:
    async def work() -> None:
        database = SqliteDatabase(path, alone=False)

        async def one() -> None:
            for _ in range(rounds):
                async with database.transaction() as tx:
                    await tx.fetch_one(_COUNT_UP, item="a")
                    await asyncio.sleep(random.uniform(0, 0.001))  # others want their turn meanwhile

        await asyncio.gather(*(one() for _ in range(tasks)))
        await database.close()

    asyncio.run(work())


async def test_processes_that_write_at_once_take_turns_and_none_is_refused(db: SqliteDatabase) -> None:
    """OPS-1: a busy file is waited for, whoever is at it; every commit counts."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count_up, args=(str(db.path), 40, 4)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join, 60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    row = await db.fetch_one(_GET, id="a")
    assert row is not None
    assert row[1] == 3 * 4 * 40


async def test_what_another_process_committed_is_on_disk_before_it_is_passed_on(
    db: SqliteDatabase, other: apsw.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-1: an event does not outlive its write in a power cut, whoever wrote it."""
    synced: list[int] = []
    from taskman_server.kit.db import sqlite_sync

    monkeypatch.setattr(sqlite_sync, "_sync_file", synced.append)
    other.execute("UPDATE items SET count = 7")
    await db.settled()
    assert len(synced) == 1

"""What a process learns of the commits of others on the same SQLite file, and how it takes turns with them."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam

from taskman_server.kit.cache import ReadCache
from taskman_server.kit.db import Statement
from taskman_server.kit.db.errors import ConstraintViolation, UniqueViolation
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.telemetry import CacheUse

_TABLE = sa.Table("items", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("count", sa.Integer))
_GET = Statement(sa.select(_TABLE).where(_TABLE.c.id == bindparam("id")))
_ADD = Statement(sa.insert(_TABLE).values(id=bindparam("id"), count=0))
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
async def other(db: SqliteDatabase) -> AsyncIterator[SqliteDatabase]:
    """That of another process, as far as SQLite is concerned."""
    database = SqliteDatabase(db.path, alone=False)
    yield database
    await database.close()


async def _change(db: SqliteDatabase) -> None:
    async with db.transaction() as tx:
        await tx.fetch_one(_COUNT_UP, item="a")
        tx.invalidate()


async def test_the_number_changes_with_what_others_changed_and_with_nothing_else(
    db: SqliteDatabase, other: SqliteDatabase
) -> None:
    """What this process commits is known to it anyway; what others add was not remembered by anybody."""
    assert db.elsewhere is not None
    before = db.elsewhere()
    await _change(db)
    assert db.elsewhere() == before
    await other.execute(_ADD, id="b")
    assert db.elsewhere() == before
    await _change(other)
    after = db.elsewhere()
    assert after != before
    async with other.transaction() as tx:
        await tx.fetch_one(_COUNT_UP, item="a")
        tx.invalidate()
        assert db.elsewhere() == after, "not committed yet"
    assert db.elsewhere() != after


async def test_the_changes_of_two_processes_do_not_hide_one_another(db: SqliteDatabase, other: SqliteDatabase) -> None:
    """Both count in the same place."""
    assert db.elsewhere is not None
    assert other.elsewhere is not None
    for _ in range(3):
        here, there = db.elsewhere(), other.elsewhere()
        await _change(db)
        await _change(other)
        assert db.elsewhere() != here
        assert other.elsewhere() != there


async def test_what_was_rolled_back_changes_no_number_and_hides_no_later_one(
    db: SqliteDatabase, other: SqliteDatabase
) -> None:
    """TASK-1"""
    assert db.elsewhere is not None
    assert other.elsewhere is not None
    here, there = db.elsewhere(), other.elsewhere()
    db.writer.execute("CREATE TABLE parts (of TEXT REFERENCES items DEFERRABLE INITIALLY DEFERRED)")

    async def fail(sql: str) -> None:
        async with db.transaction() as tx:
            tx.invalidate()
            await tx.fetch_all(sa.text(sql))

    with pytest.raises(UniqueViolation):
        await fail("INSERT INTO items VALUES ('a', 1)")
    with pytest.raises(ConstraintViolation):
        await fail("INSERT INTO parts VALUES ('nobody')")  # found by the commit
    assert other.elsewhere() == there
    await _change(other)
    assert db.elsewhere() != here


async def test_what_others_changed_before_a_transaction_is_seen_in_it(
    db: SqliteDatabase, other: SqliteDatabase
) -> None:
    """The writer may be at work in a thread then, and is not asked."""
    assert db.elsewhere is not None
    before = db.elsewhere()
    await _change(other)
    async with db.transaction() as tx:
        within = db.elsewhere()
        assert within != before
        await tx.execute(_COUNT_UP, item="a")
        assert db.elsewhere() == within
    assert db.elsewhere() == within


async def test_a_process_that_is_alone_is_not_asked_and_tells_nobody(tmp_path: Path) -> None:
    alone = SqliteDatabase(tmp_path / "y.db")
    assert alone.elsewhere is None
    async with alone.transaction() as tx:
        tx.invalidate()
    assert alone.writer.execute("PRAGMA application_id").get == 0
    await alone.close()


async def test_a_cache_holds_nothing_that_another_process_may_have_changed(
    db: SqliteDatabase, other: SqliteDatabase
) -> None:
    """TASK-1: neither what was kept before the commit, nor what was being read meanwhile."""
    cache: ReadCache[str, int] = ReadCache(10, CacheUse(), db.elsewhere)
    assert cache.get("a") is None
    cache.keep("a", 0, cache.changes)
    cache.keep("b", 0, cache.changes)
    async with db.transaction() as tx:
        cache.forget(tx, "b")
        assert cache.get("b") == 0, "nothing is committed"
    assert cache.get("b") is None
    assert cache.get("a") == 0, "a change of its own process says what it changes"
    await other.execute(_ADD, id="c")
    assert cache.get("a") == 0
    await _change(other)
    assert cache.get("a") is None
    noted = cache.changes
    await _change(other)
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
    db: SqliteDatabase, other: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVENT-1: an event does not outlive its write in a power cut, whoever wrote it."""
    synced: list[int] = []
    from taskman_server.kit.db import sqlite_sync

    await _change(other)
    monkeypatch.setattr(sqlite_sync, "_sync_file", synced.append)
    await db.settled()
    assert len(synced) == 1

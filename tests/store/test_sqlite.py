"""SQLite: taking turns, group commit, long reads, what can go wrong with a file."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from taskman_server.kit.db import (
    Database,
    DatabaseUnavailable,
    sqlite_sync,
)
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.db.statements import Statement
from tests.store.support import COUNT, GET, LONG, PUT, OpenDatabase, count, create_tables, until


async def test_one_who_gives_up_waiting_does_not_hold_up_the_queue(db: Database) -> None:
    """A task cancelled before its turn."""
    async with db.transaction():
        waiting = [asyncio.create_task(db.execute(PUT, id=str(number), text="")) for number in range(3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await db.fetch_one(GET, id="1") is None
    assert await count(db) == 2


async def test_writers_take_turns_in_the_order_they_asked(db: Database) -> None:
    """FIFO: nobody starves."""
    order: list[int] = []

    async def write(number: int) -> None:
        async with db.transaction() as tx:
            order.append(number)
            await asyncio.sleep(0)
            await tx.execute(PUT, id=str(number), text="")

    await asyncio.gather(*(write(number) for number in range(50)))
    assert order == list(range(50))
    assert await count(db) == 50


async def test_what_was_committed_shows_in_a_number(db: SqliteDatabase) -> None:
    """AUTHZ-4: it stays while nobody writes, and moves with a commit of this process and of another connection."""
    before = db.changes()
    assert await count(db) == 0
    assert db.changes() == before
    await db.execute(PUT, id="1", text="")
    after = db.changes()
    assert after != before
    other = apsw.Connection(str(db.path))
    other.execute("DELETE FROM notes")
    other.close()
    assert db.changes() not in (before, after)


async def test_commits_that_wait_together_share_a_sync(db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group commit: many writers, few syncs, and every one is told only after a sync that began after its commit."""
    assert db.group is not None
    syncs = 0
    real = db.group._sync

    def counted() -> None:
        nonlocal syncs
        syncs += 1
        real()

    monkeypatch.setattr(db.group, "_sync", counted)
    await asyncio.gather(*(db.execute(PUT, id=str(number), text="") for number in range(200)))
    assert await count(db) == 200
    assert 1 <= syncs < 100
    before = syncs
    await db.execute(PUT, id="x", text="")
    assert syncs == before + 1
    async with db.transaction() as tx:
        await tx.fetch_one(COUNT)
    assert syncs == before + 1, "a transaction that changed nothing waits for no disk"


async def test_commits_of_a_busy_moment_share_a_sync(db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPS-1: a commit waits for those that the event loop is about to make, and each is on disk when it is told."""
    synced: list[int] = []
    monkeypatch.setattr(sqlite_sync, "_sync_file", lambda file: (synced.append(file), os.fdatasync(file)))

    async def write(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)  # one of them commits in each turn
        await db.execute(PUT, id=str(number), text="")
        return len(synced)

    turns = [asyncio.create_task(write(number)) for number in range(30)]
    while not all(turn.done() for turn in turns[:-1]):
        sum(range(50_000))  # the work of others
        await asyncio.sleep(0)
    assert min(await asyncio.gather(*turns)) >= 1
    assert len(synced) <= 6
    await db.execute(PUT, id="alone", text="")
    assert await count(db) == 31


async def test_a_commit_is_told_after_its_log_is_on_disk(db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """`full`: the log itself is synced, after the commit was written to it; `durable=False` does not wait."""
    synced: list[tuple[str, int]] = []

    def spy(descriptor: int) -> None:
        log = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append((os.path.basename(log), os.fstat(descriptor).st_size))
        os.fdatasync(descriptor)

    monkeypatch.setattr(sqlite_sync, "_sync_file", spy)
    log = db.path.with_name("service.db-wal")
    await db.execute(PUT, id="1", text="x" * 100_000)
    assert synced == [("service.db-wal", log.stat().st_size)]
    async with db.transaction(durable=False) as tx:
        await tx.execute(PUT, id="2", text="")
    assert len(synced) == 1


async def test_a_failed_sync_acknowledges_nothing_and_stops_the_writes(
    db: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failed fsync the kernel may say yes to a page it dropped: nothing may be promised any more."""
    assert db.group is not None
    called: list[int] = []

    def broken() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(db.group, "_sync", broken)
    with pytest.raises(DatabaseUnavailable, match="not known"):  # noqa: PT012
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            tx.on_commit(lambda: called.append(1))
    assert called == []
    with pytest.raises(DatabaseUnavailable):
        await db.execute(PUT, id="2", text="")


async def test_a_long_read_does_not_hold_up_the_loop(db: SqliteDatabase) -> None:
    """A list over many rows runs in a thread; reads by key go on meanwhile."""
    await db.execute(PUT, id="1", text="")
    reads = 0
    slow = asyncio.create_task(db.fetch_one(LONG, top=1_000_000))
    while not slow.done():
        assert await db.fetch_one(GET, id="1") is not None
        reads += 1
        await asyncio.sleep(0)
    row = await slow
    assert row is not None
    assert row.n == 1_000_000
    assert reads > 100
    async with db.transaction() as tx:
        row = await tx.fetch_one(LONG, top=1_000_000)
        assert row is not None
        assert row.n == 1_000_000


def test_a_statement_that_was_slow_once_is_soon_tried_on_the_loop_again(db: SqliteDatabase) -> None:
    """Each time that it is too long again soon after, it stays away twice as long, up to a minute."""
    prepared = Statement(LONG.element).prepare(db.dialect)
    now, away = 1000.0, []
    for _ in range(8):
        prepared.was_slow(now)
        away.append(prepared.slow_until - now)
        now = prepared.slow_until + 0.5
    assert away == [1, 2, 4, 8, 16, 32, 60, 60]
    prepared.was_slow(now + 3600)
    assert prepared.slow_until == now + 3601


@pytest.mark.parametrize("offload", [False, True])
async def test_a_cancelled_read_stops_working(db: SqliteDatabase, offload: bool) -> None:
    """Nobody waits for the answer: the thread is free again, and so is the writer."""
    started = time.monotonic()

    async def work() -> None:
        async with db.transaction(offload=offload) as tx:
            await tx.fetch_one(LONG, top=10**12)

    for task in [asyncio.create_task(db.fetch_one(LONG, top=10**12)), asyncio.create_task(work())]:
        for _ in range(10):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await db.execute(PUT, id="1", text="")
    assert time.monotonic() - started < db.statement_timeout


async def test_work_on_many_rows_lets_others_have_their_turn(db: Database) -> None:
    """execute_many, inline and in a thread."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await db.execute_many(PUT, [{"id": f"a{number}", "text": ""} for number in range(2000)])
    assert turns >= 9
    async with db.transaction(offload=True) as tx:
        await tx.execute_many(PUT, [{"id": f"b{number}", "text": ""} for number in range(2000)])
    task.cancel()
    assert await count(db) == 4000


async def test_another_process_that_writes_is_waited_for_without_blocking(tmp_path: Path) -> None:
    """`lock_timeout` passes on the event loop's time, not instead of it."""
    db = SqliteDatabase(tmp_path / "x.db", lock_timeout=0.1)
    await create_tables(db)
    other = apsw.Connection(str(tmp_path / "x.db"))
    other.execute("BEGIN IMMEDIATE")
    ticks = 0
    with pytest.raises(DatabaseUnavailable, match=r"x\.db is locked by another process"):  # noqa: PT012
        writing = asyncio.create_task(db.execute(PUT, id="1", text=""))
        while not writing.done():
            ticks += 1
            await asyncio.sleep(0)
        await writing
    assert ticks > 10
    assert await count(db) == 0, "reads do not wait for writers"
    writing = asyncio.create_task(db.execute(PUT, id="1", text=""))
    await asyncio.sleep(0)
    other.execute("COMMIT")
    assert await writing == 1
    other.close()
    await db.close()


async def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    """The page limit is SQLite's own way to run out of space."""
    db = SqliteDatabase(tmp_path / "x.db")
    await create_tables(db)
    db.writer.pragma("max_page_count", db.writer.pragma("page_count") + 2)
    with pytest.raises(DatabaseUnavailable, match="disk is full"):  # noqa: PT012
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            await tx.execute(PUT, id="2", text="x" * 100_000)
    assert await count(db) == 0
    await db.execute(PUT, id="3", text="")
    assert await count(db) == 1
    await db.close()


async def test_a_damaged_file_is_named_at_the_start(tmp_path: Path) -> None:
    """Restore, instead of a traceback."""
    path = tmp_path / "x.db"
    path.write_bytes(b"this is not a database" * 1000)
    with pytest.raises(DatabaseUnavailable, match=r"x\.db is not a SQLite database"):
        SqliteDatabase(path)
    with pytest.raises(DatabaseUnavailable, match=r"y\.db cannot be opened"):
        SqliteDatabase(tmp_path / "missing" / "y.db")


async def test_a_damaged_page_is_named_when_it_is_read(tmp_path: Path) -> None:
    """Damage in the middle of the file."""
    path = tmp_path / "x.db"
    db = SqliteDatabase(path)
    await create_tables(db)
    await db.execute_many(PUT, [{"id": f"{number:05}", "text": "x" * 200} for number in range(2000)])
    await db.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size // 2))
    db = SqliteDatabase(path)
    with pytest.raises(DatabaseUnavailable, match=r"x\.db is damaged"):  # noqa: PT012
        for number in range(2000):
            await db.fetch_one(GET, id=f"{number:05}")
    await db.close()


async def test_the_file_is_its_owners_alone_and_closed_means_closed(tmp_path: Path) -> None:
    """Others on the machine cannot read it; a late call is told."""
    db = SqliteDatabase(tmp_path / "x.db")
    await create_tables(db)
    writing = asyncio.create_task(db.execute(PUT, id="1", text=""))
    await asyncio.sleep(0)
    await db.close()
    assert await writing == 1
    assert stat.S_IMODE((tmp_path / "x.db").stat().st_mode) == 0o600
    assert not (tmp_path / "x.db-wal").exists()
    for call in (db.fetch_one(GET, id="1"), db.execute(PUT, id="2", text="")):
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await call
    again = SqliteDatabase(tmp_path / "x.db")
    assert await count(again) == 1
    await again.close()


@pytest.fixture
async def busy_db(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    """A database whose log grows."""
    database = SqliteDatabase(tmp_path / "busy.db", durability="normal")
    await create_tables(database)
    yield database
    await database.close()


async def test_the_log_is_moved_into_the_file_when_it_is_long(busy_db: SqliteDatabase) -> None:
    """Off the loop; the log starts again instead of growing for ever."""
    for number in range(200):
        await busy_db.execute(PUT, id=str(number), text="x" * 100_000)

    async def moved() -> bool:
        return busy_db.path.stat().st_size > 1_000_000

    await until(moved)
    assert await count(busy_db) == 200


async def test_what_queries_cost_is_told(open_db: OpenDatabase) -> None:
    """OPS-5: for metrics, by kind; reads on the event loop and in a thread alike."""
    seen: list[tuple[str, float]] = []
    db = await open_db(observe=lambda kind, seconds: seen.append((kind, seconds)))
    await create_tables(db)
    seen.clear()
    await count(db)
    await db.fetch_one(LONG, top=300_000)
    async with db.transaction() as tx:
        await tx.execute(PUT, id="1", text="")
        await tx.fetch_one(COUNT)
    assert [kind for kind, _ in seen] == ["read", "read", "write", "read", "commit"]
    assert all(0 < seconds < 5 for _, seconds in seen)
    assert seen[1][1] > seen[0][1]

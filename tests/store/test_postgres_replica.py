"""A streaming replica: reads that may lag, and never behind what their principal wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest

from taskman_server.kit.db import Executor
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.replica import LocalWriteMarks, WriteMarks
from tests.parts.postgresql import PostgreSQL, Replica, private_postgresql, private_replica
from tests.parts.proxy import TcpProxy
from tests.store.support import GET, LONG, NOTES, PUT, count, create_tables, until

Opener: TypeAlias = Callable[..., Awaitable[PostgresDatabase]]


class Pair(NamedTuple):
    primary: PostgreSQL
    replica: Replica
    proxy: TcpProxy


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A primary, a replica that streams from it, and a network before the replica."""
    one, two = tmp_path_factory.mktemp("primary"), tmp_path_factory.mktemp("replica")
    with (
        private_postgresql(one) as primary,
        private_replica(primary, two) as replica,
        TcpProxy(replica.url()) as proxy,
    ):
        yield Pair(primary, replica, proxy)


@pytest.fixture
async def opener(pair: Pair) -> AsyncIterator[Opener]:
    """Opens the primary with its replica behind the network; what it had is emptied."""
    pair.replica.resume()
    pair.proxy.heal()
    opened: list[PostgresDatabase] = []

    async def open_one(marks: WriteMarks | None = None, **options: Any) -> PostgresDatabase:
        opened.append(
            await PostgresDatabase.open(
                pair.primary.url(), name="kit", replica_url=pair.proxy.url, marks=marks, **options
            )
        )
        return opened[-1]

    first = await open_one()
    await create_tables(first)
    await first.execute(NOTES.delete())
    await asyncio.to_thread(pair.replica.wait_for, pair.primary)
    yield open_one
    pair.replica.resume()
    pair.proxy.heal()
    for database in opened:
        await database.close()


def on_replica(db: PostgresDatabase, reader: Executor) -> bool:
    return reader is not db


async def test_one_who_writes_reads_it_and_others_may_read_what_is_older(opener: Opener, pair: Pair) -> None:
    """OPS-2: read your writes, under a replica that stands still."""
    db = await opener()
    await db.execute(PUT, id="old", text="")
    await asyncio.to_thread(pair.replica.wait_for, pair.primary)
    await asyncio.to_thread(pair.replica.pause)
    await db.execute(PUT, id="new", text="")
    await db.note_write("writer")
    assert not on_replica(db, await db.reader("writer"))
    assert await (await db.reader("writer")).fetch_one(GET, id="new") is not None
    reader = await db.reader("somebody else")
    assert on_replica(db, reader)
    assert await reader.fetch_one(GET, id="new") is None
    assert await reader.fetch_one(GET, id="old") is not None
    assert len(await reader.fetch_all(NOTES.select())) == 1
    await asyncio.to_thread(pair.replica.resume)

    async def caught_up() -> Executor | None:
        found = await db.reader("writer")
        return found if on_replica(db, found) else None

    reader = await until(caught_up)
    assert await reader.fetch_one(GET, id="new") is not None
    assert db.replica_lag is not None


async def test_no_read_is_behind_its_principals_write_whatever_the_timing(opener: Opener) -> None:
    """The promise itself, at full speed: each write is read at once, by several who share their marks."""
    marks = LocalWriteMarks()
    processes = [await opener(marks), await opener(marks)]
    replica_reads = 0

    async def live(who: str) -> None:
        nonlocal replica_reads
        for number in range(40):
            writer, other = processes[number % 2], processes[(number + 1) % 2]
            async with writer.transaction(durable=bool(number % 3)) as tx:
                await tx.execute(PUT, id=f"{who}-{number}", text="")
            await writer.note_write(who)
            reader = await other.reader(who)
            assert await reader.fetch_one(GET, id=f"{who}-{number}") is not None
            reader = await other.reader("nobody")
            replica_reads += on_replica(other, reader)
            await count(reader)  # type: ignore[arg-type]

    await asyncio.gather(*(live(f"user{n}") for n in range(4)))
    assert replica_reads > 100


async def test_a_replica_that_is_away_is_no_reason_to_fail(opener: Opener, pair: Pair) -> None:
    """Reads go to the primary, at once, also one that was under way; and back when it answers again."""
    db = await opener()
    await db.execute(PUT, id="1", text="")
    reader = await db.reader("x")
    assert on_replica(db, reader)
    pair.proxy.cut()
    assert await reader.fetch_one(GET, id="1") is not None
    assert len(await reader.fetch_all(NOTES.select())) == 1
    assert not on_replica(db, await db.reader("x"))
    assert db.replica_lag is None
    pair.proxy.heal()

    async def back() -> bool:
        return on_replica(db, await db.reader("x"))

    await until(back)


async def test_a_replica_that_does_not_answer_holds_up_one_moment_only(opener: Opener, pair: Pair) -> None:
    """Swallowed packets: the first reader waits a quarter of a second, those after it not at all."""
    db = await opener()
    assert on_replica(db, await db.reader("x"))
    pair.proxy.freeze()
    loop = asyncio.get_running_loop()

    async def noticed() -> bool:
        return not on_replica(db, await db.reader("x"))

    before = loop.time()
    await until(noticed)
    assert loop.time() - before < 2, "the statement's own time limit is longer"
    before = loop.time()
    for _ in range(1000):
        assert not on_replica(db, await db.reader("x"))
    assert loop.time() - before < 0.25


async def test_a_replica_that_streams_from_nobody_is_not_read(opener: Opener, pair: Pair) -> None:
    """It answers, and would answer the same for ever."""
    db = await opener()
    assert on_replica(db, await db.reader("x"))
    conninfo = await asyncio.to_thread(pair.replica.execute, "SHOW primary_conninfo")
    await asyncio.to_thread(pair.replica.execute, "ALTER SYSTEM SET primary_conninfo = ''")
    await asyncio.to_thread(pair.replica.execute, "SELECT pg_reload_conf()")
    try:

        async def noticed() -> bool:
            return not on_replica(db, await db.reader("x"))

        await until(noticed)
    finally:
        quoted = conninfo.replace("'", "''")
        await asyncio.to_thread(pair.replica.execute, f"ALTER SYSTEM SET primary_conninfo = '{quoted}'")
        await asyncio.to_thread(pair.replica.execute, "SELECT pg_reload_conf()")

    async def back() -> bool:
        return on_replica(db, await db.reader("x"))

    await until(back)


async def test_marks_that_cannot_be_kept_send_their_principal_to_the_primary(opener: Opener, pair: Pair) -> None:
    """Redis is away: nobody reads what is older than his own write."""

    class Broken(LocalWriteMarks):
        """Marks in a store that is away."""

        broken = False

        async def get(self, key: str) -> int | None:
            return None if self.broken else await super().get(key)

        async def put(self, key: str, lsn: int) -> None:
            if self.broken:
                raise ConnectionError("away")
            await super().put(key, lsn)

    marks = Broken()
    db = await opener(marks)
    assert on_replica(db, await db.reader("x"))
    marks.broken = True
    await db.execute(PUT, id="1", text="")
    await db.note_write("x")
    assert not on_replica(db, await db.reader("y")), "it cannot be told what y has written"
    marks.broken = False
    assert not on_replica(db, await db.reader("x")), "x has written, and only this process knows"
    assert on_replica(db, await db.reader("y"))


async def test_a_writer_who_hangs_up_before_its_mark_is_kept_reads_the_primary(opener: Opener, pair: Pair) -> None:
    """Committed, and cancelled on the way back."""
    db = await opener()
    assert on_replica(db, await db.reader("x"))
    await asyncio.to_thread(pair.replica.wait_for, pair.primary)
    await asyncio.to_thread(pair.replica.pause)
    await db.execute(PUT, id="1", text="")
    noting = asyncio.create_task(db.note_write("x"))
    await asyncio.sleep(0)
    noting.cancel()
    await asyncio.wait([noting])
    assert noting.cancelled()
    assert await (await db.reader("x")).fetch_one(GET, id="1") is not None


async def test_what_a_reader_cannot_do_on_the_replica_is_done_on_the_primary(opener: Opener) -> None:
    """Writes, and reads that the replica ends."""
    db = await opener(statement_timeout=0.3)
    reader = await db.reader("x")
    assert on_replica(db, reader)
    assert await reader.execute(PUT, id="1", text="") == 1
    await reader.execute_many(PUT, [{"id": "2", "text": ""}])
    assert await count(db) == 2
    row = await reader.fetch_one(LONG, top=10)
    assert row is not None
    assert row.n == 10


async def test_local_marks_are_bounded_and_forget_on_the_safe_side() -> None:
    """Who is forgotten counts as one who wrote last among the forgotten."""
    marks = LocalWriteMarks(size=2)
    assert await marks.get("a") == 0
    await marks.put("a", 10)
    await marks.put("a", 5)
    assert await marks.get("a") == 10
    await marks.put("b", 20)
    await marks.put("c", 30)
    assert [await marks.get(key) for key in "abcd"] == [10, 20, 30, 10]
    await marks.put("a", 40)
    assert [await marks.get(key) for key in "abcd"] == [40, 20, 30, 20]


async def test_without_a_replica_nothing_is_asked(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """`reader` and `note_write` cost no query then."""
    seen: list[str] = []
    db = await PostgresDatabase.open(
        postgresql.database("kit"), name="kit", observe=lambda kind, seconds: seen.append(kind)
    )
    await db.note_write("x")
    assert await db.reader("x") is db
    assert seen == []
    assert db.replica_lag is None
    await db.close()

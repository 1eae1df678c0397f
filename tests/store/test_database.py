"""What every database promises: transactions, savepoints, violations, limits of time. On SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from taskman_server.kit.db import (
    ConstraintViolation,
    Database,
    DatabaseError,
    DatabaseUnavailable,
    Statement,
    StatementTimeout,
    UniqueViolation,
)
from tests.store.support import COUNT, GET, LONG, NOTES, PUT, OpenDatabase, count, create_tables


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each test runs on both."""
    return str(request.param)


class Deliberate(Exception):
    """Raised by a test inside a transaction."""


async def test_a_transaction_is_all_or_nothing(db: Database) -> None:
    """EVENT-1: a write and what goes with it are one commit."""
    called: list[str] = []
    with pytest.raises(Deliberate):  # noqa: PT012
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            tx.on_commit(lambda: called.append("never"))
            assert await tx.fetch_one(GET, id="1") is not None, "a transaction sees its own writes"
            assert await db.fetch_one(GET, id="1") is None, "nobody else does"
            raise Deliberate
    assert await count(db) == 0
    async with db.transaction() as tx:
        await tx.execute(PUT, id="1", text="")
        await tx.execute(PUT, id="2", text="")
        tx.on_commit(lambda: called.append("committed"))
        assert called == []
    assert await count(db) == 2
    assert called == ["committed"]


async def test_a_cancelled_task_leaves_nothing_and_lets_the_next_one_in(db: Database) -> None:
    """The caller hung up in the middle: rolled back, and the writer's turn passes on."""
    inside = asyncio.Event()

    async def work() -> None:
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await count(db) == 0
    await db.execute(PUT, id="2", text="")
    assert await count(db) == 1


async def test_a_failed_statement_fails_the_transaction_unless_in_a_savepoint(db: Database) -> None:
    """As on PostgreSQL, so that code written here runs there."""
    await db.execute(PUT, id="1", text="")
    with pytest.raises(DatabaseError, match="earlier statement"):  # noqa: PT012
        async with db.transaction() as tx:
            await tx.execute(PUT, id="2", text="")
            with pytest.raises(UniqueViolation):
                await tx.execute(PUT, id="1", text="")
            await tx.execute(PUT, id="3", text="")
    with pytest.raises(DatabaseError, match="nothing was committed"):  # noqa: PT012
        async with db.transaction() as tx:
            await tx.execute(PUT, id="2", text="")
            with pytest.raises(UniqueViolation):
                await tx.execute(PUT, id="1", text="")
    assert await count(db) == 1
    called: list[str] = []
    async with db.transaction() as tx:
        await tx.execute(PUT, id="2", text="")
        with pytest.raises(UniqueViolation):  # noqa: PT012
            async with tx.savepoint():
                await tx.execute(PUT, id="3", text="")
                tx.on_commit(lambda: called.append("undone"))
                await tx.execute(PUT, id="1", text="")
        async with tx.savepoint():
            await tx.execute(PUT, id="4", text="")
            tx.on_commit(lambda: called.append("kept"))
    assert called == ["kept"]
    assert [await db.fetch_one(GET, id=i) is not None for i in "1234"] == [True, True, False, True]


async def test_violations_say_what_was_violated(db: Database) -> None:
    """Handlers turn them into the right answer."""
    table = sa.Table(
        "child",
        sa.MetaData(),
        sa.Column("a", sa.Integer, nullable=False),
        sa.Column("b", sa.Integer, nullable=False),
        sa.CheckConstraint("b > 0", name="b_positive"),
        sa.UniqueConstraint("a", "b"),
    )
    await db.execute(CreateTable(table))
    insert = Statement(sa.insert(table))
    await db.execute(insert, a=1, b=1)
    with pytest.raises(UniqueViolation) as unique:
        await db.execute(insert, a=1, b=1)
    assert (unique.value.table, unique.value.columns) == ("child", ("a", "b"))
    with pytest.raises(ConstraintViolation) as null:
        await db.execute(insert, a=None, b=1)
    assert (null.value.kind, null.value.table, null.value.columns) == ("not_null", "child", ("a",))
    with pytest.raises(ConstraintViolation) as check:
        await db.execute(insert, a=1, b=-1)
    assert (check.value.kind, check.value.constraint) == ("check", "b_positive")


async def test_misuse_is_told_instead_of_hanging(db: Database) -> None:
    """A transaction inside another of the same task would wait for itself."""
    async with db.transaction() as tx:
        with pytest.raises(RuntimeError, match="already"):
            await db.execute(PUT, id="1", text="")
    with pytest.raises(RuntimeError, match="has ended"):
        await tx.execute(PUT, id="1", text="")


async def test_many_writers_at_once_lose_nothing(db: Database) -> None:
    """They take turns on SQLite and run side by side on PostgreSQL; a row that all change is changed by each."""
    await db.execute(PUT, id="sum", text="0")

    async def add() -> None:
        async with db.transaction() as tx:
            row = await tx.fetch_one(sa.select(NOTES.c.text).where(NOTES.c.id == "sum").with_for_update())
            assert row is not None
            await asyncio.sleep(0)
            await tx.execute(sa.update(NOTES).where(NOTES.c.id == "sum").values(text=str(int(row.text) + 1)))

    await asyncio.gather(*(add() for _ in range(50)))
    row = await db.fetch_one(GET, id="sum")
    assert row is not None
    assert row.text == "50"


async def test_turns_order_what_no_row_can(db: Database, open_db: OpenDatabase) -> None:
    """AUTHZ-5: "the last administrator" is a decision on rows that are not there to be locked."""
    other = await open_db()

    async def one_more(where: Database, name: str) -> None:
        async with where.transaction() as tx:
            await tx.take_turn("notes")
            row = await tx.fetch_one(COUNT)
            assert row is not None
            await asyncio.sleep(0)
            if row.n < 5:
                await tx.execute(PUT, id=name, text="")

    await asyncio.gather(*(one_more((db, other)[n % 2], str(n)) for n in range(30)))
    assert await count(db) == 5


async def test_a_transaction_serves_two_tasks_of_its_owner(db: Database) -> None:
    """Statements that are asked for at once run one after the other."""
    async with db.transaction() as tx:
        await asyncio.gather(*(tx.execute(PUT, id=str(number), text="") for number in range(20)))
    assert await count(db) == 20


async def test_many_rows_are_written_in_one_go_or_not_at_all(db: Database) -> None:
    """execute_many, alone and inside a transaction."""
    await db.execute_many(PUT, [{"id": f"a{number}", "text": ""} for number in range(2000)])
    await db.execute_many(PUT, [])
    with pytest.raises(UniqueViolation):
        await db.execute_many(PUT, [{"id": name, "text": ""} for name in ("b", "c", "b")])
    async with db.transaction(offload=True) as tx:
        await tx.execute_many(PUT, [{"id": f"c{number}", "text": ""} for number in range(2000)])
    assert await count(db) == 4000


async def test_a_commit_that_does_not_wait_for_the_disk_is_a_commit(db: Database) -> None:
    """`durable=False`, and `settled`, which waits for it after all."""
    called: list[str] = []
    async with db.transaction(durable=False) as tx:
        await tx.execute(PUT, id="1", text="")
        tx.on_commit(lambda: called.append("committed"))
    assert called == ["committed"]
    await db.settled()
    await db.settled()
    with pytest.raises(Deliberate):  # noqa: PT012
        async with db.transaction(durable=False) as tx:
            await tx.execute(PUT, id="2", text="")
            raise Deliberate
    assert await count(db) == 1


async def test_a_read_without_end_is_stopped(open_db: OpenDatabase) -> None:
    """The statement's time limit, in a transaction and outside; the database works on."""
    db = await open_db(statement_timeout=0.05)
    await create_tables(db)
    with pytest.raises(StatementTimeout):
        await db.fetch_one(LONG, top=10**12)
    with pytest.raises(StatementTimeout):
        async with db.transaction() as tx:
            await tx.fetch_one(LONG, top=10**12)
    await db.execute(PUT, id="1", text="")
    assert await count(db) == 1


async def test_a_cancelled_read_stops_working(db: Database) -> None:
    """Nobody waits for the answer: what it held is free again."""
    started = time.monotonic()

    async def work() -> None:
        async with db.transaction() as tx:
            await tx.fetch_one(LONG, top=10**12)

    for task in [asyncio.create_task(db.fetch_one(LONG, top=10**12)), asyncio.create_task(work())]:
        for _ in range(10):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await db.execute(PUT, id="1", text="")
    assert time.monotonic() - started < 4.0


async def test_reads_of_the_writer_are_never_behind(db: Database) -> None:
    """Without a replica the reader is the database itself."""
    await db.execute(PUT, id="1", text="")
    await db.note_write("user_1")
    reader = await db.reader("user_1")
    assert await reader.fetch_one(GET, id="1") is not None


async def test_closed_means_closed(db: Database, open_db: OpenDatabase) -> None:
    """What runs is finished; a late call is told."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        async with db.transaction() as tx:
            await tx.execute(PUT, id="1", text="")
            inside.set()
            await go_on.wait()

    writing = asyncio.create_task(work())
    await inside.wait()
    closing = asyncio.create_task(db.close())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(writing, closing)
    for call in (db.fetch_one(GET, id="1"), db.execute(PUT, id="2", text="")):
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await call
    assert await count(await open_db()) == 1

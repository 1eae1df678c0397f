"""PostgreSQL: what its errors tell, and what they keep to themselves."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.schema import CreateIndex, CreateTable

from taskman_server.kit.db import (
    DatabaseError,
    DatabaseUnavailable,
    Statement,
    TextRefused,
    UniqueViolation,
)
from taskman_server.kit.db.postgres import PostgresDatabase
from tests.parts.postgresql import PostgreSQL
from tests.store.support import PUT, until


@pytest.fixture
def kind() -> str:
    """Each test runs on PostgreSQL."""
    return "postgresql"


async def test_a_value_that_the_server_cannot_keep_is_an_error_of_the_value(db: PostgresDatabase) -> None:
    """A NUL in a text is stored by SQLite alone."""
    for text, error in (("a\0hunter2", TextRefused), ("\ud800hunter2", DatabaseError)):
        with pytest.raises(error, match="given to kit") as caught:
            await db.execute(PUT, id="1", text=text)
        assert "hunter2" not in str(caught.value)
    assert db.stats().size == db.stats().idle


async def test_a_violation_names_the_key_and_never_a_value(db: PostgresDatabase) -> None:
    """Whatever the value looks like; an index on an expression has a name only."""
    table = sa.Table(
        "keys", sa.MetaData(), sa.Column("a", sa.Text), sa.Column("two words", sa.Text), sa.Column("c", sa.Text)
    )
    await db.execute(CreateTable(table))
    await db.execute(CreateIndex(sa.Index("by_two", table.c.a, table.c["two words"], unique=True)))
    await db.execute(CreateIndex(sa.Index("by_lower", sa.func.lower(table.c.c), unique=True)))
    insert = Statement(sa.insert(table).values({"a": bindparam("x"), "two words": bindparam("y"), "c": bindparam("z")}))
    nasty = "(hunter2)=(x, (b)=(c)"
    await db.execute(insert, x=nasty, y=nasty, z=nasty)
    with pytest.raises(UniqueViolation) as two:
        await db.execute(insert, x=nasty, y=nasty, z="")
    assert (two.value.table, two.value.constraint) == ("keys", "by_two")
    with pytest.raises(UniqueViolation) as lower:
        await db.execute(insert, x="", y="", z=nasty)
    assert (lower.value.columns, lower.value.constraint) == ((), "by_lower")
    for error in (two.value, lower.value):
        assert "hunter2" not in f"{error} {error.columns}"


async def test_a_server_that_is_not_there_is_said_at_the_start(postgresql: PostgreSQL) -> None:
    """No traceback, no password."""
    with pytest.raises(DatabaseUnavailable, match="no database 'nowhere'"):
        await PostgresDatabase.open(postgresql.url("nowhere"), name="kit")
    with pytest.raises(DatabaseUnavailable, match=r"cannot be reached on 127\.0\.0\.1:1") as caught:
        await PostgresDatabase.open("postgresql://taskman:hunter2@127.0.0.1:1/x", name="kit")
    assert "hunter2" not in str(caught.value)
    for wrong in ("postgresql://taskman:hunter2@127.0.0.1:port/x", "nonsense"):
        with pytest.raises(DatabaseUnavailable, match="URL") as caught:
            await PostgresDatabase.open(wrong, name="kit")
        assert "hunter2" not in str(caught.value)


async def test_a_commit_that_a_constraint_refuses_is_told_and_calls_nobody(db: PostgresDatabase) -> None:
    """A deferred constraint speaks at the end."""
    await db.execute(sa.text("CREATE TABLE late (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)"))
    called: list[str] = []
    with pytest.raises(UniqueViolation) as caught:  # noqa: PT012
        async with db.transaction() as tx:
            await tx.execute(sa.text("INSERT INTO late VALUES (1), (1)"))
            tx.on_commit(lambda: called.append("never"))
    assert (caught.value.table, caught.value.columns) == ("late", ("n",))
    assert called == []
    await until(lambda: asyncio.sleep(0, db.stats().size == db.stats().idle))
    assert await db.fetch_all(sa.text("SELECT n FROM late")) == []
    row = await db.fetch_one(
        sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'")
    )
    assert row is not None
    assert row[0] == 0

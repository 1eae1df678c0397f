"""Statements: compiled once, bound by name, rows with attributes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql.compiler import SQLCompiler

from taskman_server.kit.db import Database, DatabaseError, Statement
from taskman_server.kit.db.postgres_dialect import DIALECT
from taskman_server.kit.event_tables import INBOX, OUTBOX
from tests.store.support import GET, NOTES, PUT

NOW = datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)

FULL = Statement(sa.insert(NOTES))


@pytest.fixture(params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each test with a database runs on both."""
    return str(request.param)


async def test_values_come_back_as_they_were(db: Database) -> None:
    """Types mean the same in Python whatever the database keeps."""
    extra = {"a": [1, None, "x"], "n": 1.5}
    await db.execute(
        FULL, id="1", text="ä€😀\x7fx", done=True, extra=extra, time=NOW.astimezone(timezone(timedelta(hours=3)))
    )
    row = await db.fetch_one(GET, id="1")
    assert row is not None
    assert (row.id, row.text, row.done, row.extra, row.time) == ("1", "ä€😀\x7fx", True, extra, NOW)
    assert row.time.tzinfo is UTC
    await db.execute(FULL, id="2", text=None, done=None, extra=None, time=None)
    assert tuple((await db.fetch_all(GET, id="2"))[0]) == ("2", None, None, None, None)
    assert await db.fetch_one(GET, id="3") is None


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.datetimes(timezones=st.timezones()).filter(lambda t: 2 < t.year < 9998),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
)
async def test_any_time_and_json_survive(db: Database, time: datetime, text: str) -> None:
    """Microseconds exactly, and JSON that looks like a number stays what it was."""
    await db.execute(sa.delete(NOTES))
    await db.execute(FULL, id="1", text=text, done=False, extra=text, time=time)
    row = await db.fetch_one(GET, id="1")
    assert row is not None
    # In UTC: a time that its zone has twice equals none of another zone.
    assert (row.time, row.extra, row.text, row.done) == (time.astimezone(UTC), text, text, False)


async def test_a_time_without_a_zone_is_refused(db: Database) -> None:
    """A naive time would mean another moment on another machine."""
    with pytest.raises(ValueError, match="time zone"):
        await db.execute(FULL, id="1", text="", done=None, extra=None, time=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="datetime"):
        await db.execute(FULL, id="1", text="", done=None, extra=None, time="2030-01-01")


async def test_a_declared_statement_is_compiled_once(db: Database) -> None:
    """The hot path: a call binds and runs, nothing else."""
    statement = Statement(sa.select(NOTES).where(NOTES.c.id == bindparam("id")))
    with patch.object(SQLCompiler, "__init__", autospec=True, side_effect=SQLCompiler.__init__) as compiled:
        db.prepare(statement)
        for number in range(20):
            await db.fetch_one(statement, id=str(number))
    assert compiled.call_count == 1


async def test_a_statement_built_per_call_is_compiled_once_per_structure(db: Database) -> None:
    """Lists with filters: other values are no other statement, and never get the first call's values."""
    for number in range(10):
        await db.execute(PUT, id=str(number), text=f"t{number % 2}")
    with patch.object(SQLCompiler, "__init__", autospec=True, side_effect=SQLCompiler.__init__) as compiled:
        for number in range(10):
            built = (
                sa.select(NOTES.c.id)
                .where(NOTES.c.text == f"t{number % 2}", NOTES.c.id >= str(number))
                .limit(number + 1)
            )
            found = [row.id for row in await db.fetch_all(built.order_by(NOTES.c.id))]
            assert found == [str(n) for n in range(10) if n % 2 == number % 2 and n >= number][: number + 1]
    assert compiled.call_count == 1


async def test_lists_inside_in_have_any_length(db: Database) -> None:
    """Declared with an expanding parameter or built with a list, empty ones included."""
    for number in range(5):
        await db.execute(PUT, id=str(number), text="")
    declared = Statement(sa.select(NOTES.c.id).where(NOTES.c.id.in_(bindparam("ids", expanding=True))))
    for ids in (["1", "3"], [], ["4"], ["0", "1", "2", "9"]):
        expected = sorted(set(ids) - {"9"})
        assert sorted(row.id for row in await db.fetch_all(declared, ids=ids)) == expected
        built = sa.select(NOTES.c.id).where(NOTES.c.id.in_(ids))
        assert sorted(row.id for row in await db.fetch_all(built)) == expected
        assert len(await db.fetch_all(sa.select(NOTES.c.id).where(NOTES.c.id.not_in(ids)))) == 5 - len(expected)


async def test_lists_of_one_length_share_a_text_and_nothing_else(db: Database) -> None:
    """The text of each pair of lengths is written once; values, times and their order are each call's own."""
    statement = Statement(
        sa.select(NOTES.c.id)
        .where(
            NOTES.c.time.in_(bindparam("times", expanding=True)),
            NOTES.c.text != bindparam("text"),
            NOTES.c.id.in_(bindparam("ids", expanding=True)),
        )
        .order_by(NOTES.c.id)
    )
    for number in range(1, 5):
        time = NOW + timedelta(days=number)
        await db.execute(FULL, id=str(number), text=f"n{number}", done=None, extra=None, time=time)

    async def found(days: list[int], ids: list[int], text: str = "") -> list[int]:
        times = [NOW + timedelta(days=day) for day in days]
        rows = await db.fetch_all(statement, ids=[str(number) for number in ids], times=times, text=text)
        return [int(row.id) for row in rows]

    for _ in range(2):
        assert await found([1, 2], [2, 1]) == [1, 2]
        assert await found([4, 2], [3, 4]) == [4]
        assert await found([4, 2], [3, 4], "n4") == []
        assert await found([1], [1, 2]) == await found([1, 2], [1]) == [1]
        assert await found([], [1]) == await found([1], []) == []


async def test_literals_and_tuples_are_each_calls_own_too(db: Database) -> None:
    """Their values stand in the text, or are more than the list is long."""
    for number in range(1, 4):
        await db.execute(FULL, id=str(number), text=f"n{number}", done=None, extra=None, time=NOW)
    literal = Statement(sa.select(NOTES.c.id).where(NOTES.c.text == bindparam("text", literal_execute=True)))
    pairs = Statement(
        sa.select(NOTES.c.id).where(sa.tuple_(NOTES.c.id, NOTES.c.text).in_(bindparam("pairs", expanding=True)))
    )
    for number in ("1", "2", "3"):
        assert [row.id for row in await db.fetch_all(literal, text=f"n{number}")] == [number]
        assert [row.id for row in await db.fetch_all(pairs, pairs=[(number, f"n{number}")])] == [number]


async def test_a_time_beside_a_list_is_converted_too(db: Database) -> None:
    """An `IN` list and a time in one statement: each is kept as its column's type says."""
    for name, time in (("1", NOW), ("2", NOW - timedelta(days=1)), ("3", NOW - timedelta(days=2))):
        await db.execute(FULL, id=name, text="t", done=None, extra=None, time=time)
    due = Statement(
        sa.select(NOTES.c.id)
        .where(NOTES.c.id.in_(bindparam("ids", expanding=True)), NOTES.c.time < bindparam("before"))
        .order_by(NOTES.c.id)
    )
    assert [row.id for row in await db.fetch_all(due, ids=["1", "2", "3"], before=NOW)] == ["2", "3"]
    built = sa.select(NOTES.c.id).where(NOTES.c.id.in_(["1", "2"]), NOTES.c.time < NOW)
    assert [row.id for row in await db.fetch_all(built)] == ["2"]


async def test_a_wrong_parameter_is_named(db: Database) -> None:
    """Misuse is told with what the statement takes."""
    with pytest.raises(TypeError, match="parameter text is missing: the statement takes id, text"):
        await db.execute(PUT, id="1")
    with pytest.raises(TypeError, match="unknown parameter txt"):
        await db.execute(PUT, id="1", txt="x")
    with pytest.raises(TypeError, match="unknown parameter x: the statement takes none"):
        await db.fetch_all(Statement(sa.select(NOTES)), x=1)


def test_defaults_that_only_an_engine_would_fill_in_are_refused() -> None:
    """A default in Python would silently be NULL."""
    table = sa.Table(
        "t", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True), sa.Column("n", sa.Integer, default=5)
    )
    with pytest.raises(TypeError, match="the defaults of n"):
        Statement(sa.insert(table).values(id=bindparam("id"))).prepare(DIALECT)


async def test_a_write_can_answer_rows(db: Database) -> None:
    """RETURNING, outside a transaction too."""
    row = await db.fetch_one(PUT.element.returning(NOTES.c.id, NOTES.c.text), id="1", text="x")  # type: ignore[attr-defined]
    assert row is not None
    assert (row.id, row.text) == ("1", "x")
    assert await db.execute(sa.update(NOTES).values(text="y")) == 1
    assert await db.execute(sa.update(NOTES).values(text="y").where(NOTES.c.id == "9")) == 0


async def test_an_error_never_shows_a_value(db: Database, kind: str) -> None:
    """Errors reach logs; rows may hold secrets."""
    await db.execute(PUT, id="hunter2", text="")
    errors: list[BaseException] = []
    calls: list[tuple[Statement, dict[str, Any]]] = [
        (PUT, {"id": "hunter2", "text": ""}),
        (PUT, {"id": "hunter2\ud800", "text": ""}),
        (PUT, {"id": 2**70, "text": ""}),
        (Statement(sa.text("SELECT * FROM nowhere WHERE x = :x")), {"x": "hunter2"}),
        (Statement(sa.select(sa.literal_column("json_extract('{hunter2', '$')"))), {}),
    ]
    if kind == "postgresql":
        calls.append((Statement(sa.select(sa.cast(bindparam("x"), JSONB))), {"x": "{hunter2"}))
    for statement, params in calls:
        with pytest.raises(DatabaseError) as caught:
            await db.fetch_all(statement, **params)
        errors.append(caught.value)
    for error in errors:
        assert "hunter2" not in repr(error)
        assert "hunter2" not in str(error)
        assert error.__cause__ is None
        assert error.__suppress_context__


def test_tables_and_statements_are_written_for_postgresql_too() -> None:
    """OPS-2: one description, two databases."""
    ddl = str(CreateTable(NOTES).compile(dialect=DIALECT))
    assert "JSONB" in ddl
    assert "TIMESTAMP WITH TIME ZONE" in ddl
    assert "sequence BIGSERIAL" in str(CreateTable(OUTBOX).compile(dialect=DIALECT))
    assert "PRIMARY KEY (consumer, event_id)" in str(CreateTable(INBOX).compile(dialect=DIALECT))
    prepared = FULL.prepare(DIALECT)
    _, values = prepared.bind({"id": "1", "text": "", "done": True, "extra": {"a": 1}, "time": NOW})
    assert list(values) == ["1", "", True, '{"a":1}', NOW]

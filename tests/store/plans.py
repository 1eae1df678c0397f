"""How a database goes about the statements that a service runs: noted as they run, then planned and run once more."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import apsw
import asyncpg  # type: ignore[import-untyped]
import sqlalchemy as sa

from taskman_server.kit.db import JsonText, Statement, UtcTimestamp
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.sqlite import SqliteDatabase

__all__ = ["START", "Noted", "Way", "fill_table", "noted", "ways"]

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
_WALK: Final = re.compile(r"SCAN (?!CONSTANT ROW|json_each|.* VIRTUAL TABLE)(\w+)")


@dataclass(frozen=True, slots=True)
class Way:
    """How a statement is run.

    Attributes:
        steps: the plan, for whoever reads the failure.
        scans: what is read from end to end, or until a LIMIT is reached.
        sorts: whether rows are sorted.
        work: rows that were looked at by an index (PostgreSQL), or instructions of the virtual machine (SQLite; a row
            looked at takes some ten, a row answered some forty).
    """

    steps: Sequence[str]
    scans: Sequence[str]
    sorts: bool
    work: int

    def __str__(self) -> str:
        return "\n".join([f"work {self.work}", *self.steps])


@dataclass
class Noted:
    """The statements that ran, with their values."""

    run: list[tuple[str, Sequence[Any]]] = field(default_factory=list)


@contextmanager
def noted(db: SqliteDatabase | PostgresDatabase) -> Iterator[Noted]:
    """Notes what runs on a database meanwhile, in transactions too; not what `execute_many` puts in row by row."""
    found = Noted()
    resolve = db.resolve

    def noting(statement: Any, params: dict[str, Any]) -> Any:
        prepared, values = resolve(statement, params)
        if params or not prepared.writes:
            found.run.append(prepared.bind(values))
        return prepared, values

    db.resolve = noting  # type: ignore[method-assign]
    try:
        yield found
    finally:
        db.resolve = resolve  # type: ignore[method-assign]


async def ways(db: SqliteDatabase | PostgresDatabase, run: Noted) -> list[tuple[str, Way]]:
    """How each statement that was noted is run; what it changes is taken back."""
    assert run.run
    once = dict(reversed(run.run))  # the first of each text
    if isinstance(db, SqliteDatabase):
        return [(sql, _on_sqlite(db, sql, values)) for sql, values in once.items()]
    connection = await asyncpg.connect(db._url, server_settings=db._settings)
    try:
        return [(sql, await _on_postgresql(connection, sql, values)) for sql, values in once.items()]
    finally:
        await connection.close()


def _on_sqlite(db: SqliteDatabase, sql: str, values: Sequence[Any]) -> Way:
    connection = apsw.Connection(str(db.path))
    try:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
        work = 0

        def profile(event: Mapping[str, Any]) -> None:
            nonlocal work
            work += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

        connection.execute("BEGIN")
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, profile)
        with suppress(apsw.ConstraintError):  # it ran before: the row is there
            connection.execute(sql, values).fetchall()
        connection.trace_v2(0)
        connection.execute("ROLLBACK")
    finally:
        connection.close(True)
    scans = [found[1] for step in steps if (found := _WALK.match(step))]
    return Way(steps, scans, any("TEMP B-TREE FOR" in step and "ORDER BY" in step for step in steps), work)


async def _on_postgresql(connection: Any, sql: str, values: Sequence[Any]) -> Way:
    transaction = connection.transaction()
    await transaction.start()
    try:
        (row,) = await connection.fetch(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", *values)
    except asyncpg.UniqueViolationError:
        return Way(["it ran before: the row is there"], [], sorts=False, work=0)
    finally:
        await transaction.rollback()
    nodes = list(_nodes(json.loads(row[0])[0]["Plan"]))
    return Way(
        [_line(node) for node in nodes],
        [node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"],
        any("Sort" in node["Node Type"] for node in nodes),
        sum(_looked_at(node) for node in nodes if "Scan" in node["Node Type"] and node["Node Type"] != "Seq Scan"),
    )


def _nodes(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part)


def _looked_at(node: Mapping[str, Any]) -> int:
    rows: int = (
        node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    )
    return round(rows * node["Actual Loops"])


def _line(node: Mapping[str, Any]) -> str:
    names = (
        "Node Type",
        "Relation Name",
        "Index Name",
        "Index Cond",
        "Filter",
        "Sort Key",
        "Actual Rows",
        "Actual Loops",
    )
    return "  ".join(str(node[name]) for name in names if name in node)


async def fill_table(db: SqliteDatabase | PostgresDatabase, table: sa.Table, count: int, **columns: Any) -> None:
    """Puts `count` rows into a table; `columns` make the value of row n, the others are different in each row."""
    put = Statement(sa.insert(table).values({c.name: sa.bindparam(c.name, type_=c.type) for c in table.c}))
    rows = ({c.name: columns[c.name](n) if c.name in columns else _value(c, n) for c in table.c} for n in range(count))
    while batch := list(islice(rows, 1000)):
        async with db.transaction(durable=False) as tx:
            await tx.execute_many(put, batch)


def _value(column: sa.Column[Any], number: int) -> Any:
    if column.nullable:
        return None
    kind = column.type
    if isinstance(kind, UtcTimestamp):
        return START + timedelta(seconds=number)
    if isinstance(kind, JsonText):
        return []
    if isinstance(kind, sa.Boolean):
        return False
    if isinstance(kind, sa.LargeBinary):
        return b""
    return number if isinstance(kind, sa.Integer) else f"{column.name}-{number:05}"

"""Fills the Task service's database with any number of tasks, past its pipeline but by its store's own statements.

A transaction that only gathers what the store writes hands it to the driver ten thousand tasks at a time: 0.2 ms a task
on SQLite and on PostgreSQL, search index included. What is asked for has the same number of answers at every size:

- Each task has a label and a word `lot…` that 20 tasks have, spread evenly over the whole time, and one assignee, who
  has 50.
- Half of the tasks are in the project BIG, the others in projects of 500. `ADMIN` sees all of them, `MEMBER` is in BIG
  and the first of these, `GUEST` in the last alone.
- One task in ten is urgent, one in ten is in progress; 20 in BIG are `in_review`, which is no state of its workflow:
  lists do not care.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import SimpleNamespace
from typing import Any, Final, cast

import apsw
import asyncpg  # type: ignore[import-untyped]

from taskman_server.kit.db import Database, Row, Transaction
from taskman_server.kit.db.postgres import PostgresDatabase
from taskman_server.kit.db.sqlite import SqliteDatabase
from taskman_server.kit.ids import new_id
from taskman_server.services.tasks.rules import DEFAULT_WORKFLOW
from taskman_server.services.tasks.store import Fts5, ProjectStore, TaskStore, TsVector
from tests.bench.data import task_rows

__all__ = ["ADMIN", "GUEST", "MEMBER", "ORGANIZATION", "fill", "lot", "word"]

ORGANIZATION: Final = "org_one"
ADMIN: Final = "user_ada"
MEMBER: Final = "user_ben"
GUEST: Final = "user_eve"
_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_LOT, _LOAD, _SMALL = 20, 50, 500
_BATCH: Final = 10_000
_TEXT: Final = 200  # characters of a description
_PRIORITIES: Final = ("low", "medium", "medium", "high", "low", "medium", "high", "medium", "low", "urgent")
_STATES: Final = ("todo", "done", "done", "todo", "done", "in_progress", "done", "todo", "done", "done")


def lot(number: int) -> str:
    """A label that 20 tasks have."""
    return f"lot-{number}"


def word(number: int) -> str:
    """A word that 20 tasks have in their description; no other word goes on from it."""
    return f"lot{number:07}"


async def fill(db: SqliteDatabase | PostgresDatabase, count: int) -> None:
    """Puts `count` tasks into an empty database; at least 1,000."""
    projects = await _projects(db, count)
    index = Fts5() if isinstance(db, SqliteDatabase) else TsVector()
    store = TaskStore(cast(Database, db), index)
    _, rows = task_rows(5000)
    gathered = _Gathered(db)
    numbers = iter(range(count))
    if isinstance(db, SqliteDatabase):
        with closing(apsw.Connection(str(db.path))) as connection:
            connection.pragma("synchronous", "off")
            connection.pragma("cache_size", -400_000)
            while batch := list(islice(numbers, _BATCH)):
                await store.insert(cast(Transaction, gathered), [_task(n, count, projects, rows) for n in batch])
                with connection:
                    for sql, values in gathered.taken():
                        connection.executemany(sql, values).fetchall()
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return
    connection = await asyncpg.connect(db._url)
    try:
        while batch := list(islice(numbers, _BATCH)):
            await store.insert(cast(Transaction, gathered), [_task(n, count, projects, rows) for n in batch])
            async with connection.transaction():
                for sql, values in gathered.taken():
                    await connection.executemany(sql, values)
        await connection.execute("VACUUM ANALYZE")  # as the server does by itself, a minute later
    finally:
        await connection.close()


class _Gathered:
    """A transaction that runs nothing. Tasks get their `seq` as the empty table will count them."""

    def __init__(self, db: SqliteDatabase | PostgresDatabase) -> None:
        self._db = db
        self._seq = 0
        self._calls: dict[str, list[Sequence[Any]]] = {}

    async def fetch_one(self, statement: Any, /, **params: Any) -> Row | None:
        self._seq += 1
        self._put(statement, params)
        return cast(Row, SimpleNamespace(seq=self._seq))

    async def execute_many(self, statement: Any, rows: Sequence[Mapping[str, Any]], /) -> None:
        for row in rows:
            self._put(statement, row)

    def taken(self) -> list[tuple[str, list[Sequence[Any]]]]:
        calls, self._calls = self._calls, {}
        return list(calls.items())

    def _put(self, statement: Any, params: Mapping[str, Any]) -> None:
        sql, values = statement.prepare(self._db.dialect).bind(params)
        self._calls.setdefault(sql, []).append(values)


async def _projects(db: SqliteDatabase | PostgresDatabase, count: int) -> list[str]:
    """The ids of BIG and of the small projects after it."""
    store = ProjectStore(cast(Database, db))
    made = []
    async with db.transaction(durable=False) as tx:
        last = -(-count // 2 // _SMALL) - 1
        for number in range(-1, last + 1):
            editors = [user for user, places in ((MEMBER, (-1, 0)), (GUEST, (last,))) if number in places]
            members = {ADMIN: "admin"} | dict.fromkeys(editors, "editor")
            row = await store.insert(
                tx,
                {
                    "id": new_id("project"), "organization": ORGANIZATION,
                    "key": "BIG" if number < 0 else f"S{number}", "display_name": f"Project {number}",
                    "visibility": "private", "members": members, "workflow": DEFAULT_WORKFLOW.to_value(),
                    "last_number": count, "version": 1, "create_time": _START, "update_time": _START,
                    "description": "",
                },
            )  # fmt: skip
            made.append(row.id)
    return made


def _task(number: int, count: int, projects: Sequence[str], rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    row = rows[number % len(rows)]
    place = number // 2
    small = place // _SMALL
    big = number % 2 == 0
    time = _START + timedelta(seconds=number * (60_000_000 // count))
    return {
        "id": new_id("task"),
        "organization": ORGANIZATION,
        "project": projects[0] if big else projects[1 + small],
        "key": f"BIG-{place + 1}" if big else f"S{small}-{place % _SMALL + 1}",
        "title": row["title"],
        "state": _STATES[place % 10] if not big or place % (count // 2 // _LOT) else "in_review",
        "priority": _PRIORITIES[place * 7 % 10],
        "labels": [lot(number % (count // _LOT)), *(["fix"] if place % 10 == 3 else [])],
        "assignees": [f"user_{number % (count // _LOAD)}"],
        "creator": ADMIN,
        "external_id": "",
        "version": 1,
        "start_time": None,
        "due_time": time + timedelta(days=30) if number % 3 else None,
        "create_time": time,
        "update_time": time + timedelta(hours=number % 100),
        "complete_time": None,
        "delete_time": None,
        "description": f"{row['description'][:_TEXT]} {word(number % (count // _LOT))}",
    }

"""What a planned expression finds on PostgreSQL is what the evaluated one accepts, as on SQLite (AUTHZ-5, TASK-6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select
from sqlalchemy.schema import CreateTable

from taskman_server.kit.cel import CelTooComplex, CelUnplannable, Program
from taskman_server.kit.db.postgres import PostgresDatabase
from tests.store.databases import PostgresStock
from tests.unit.kit.test_cel_parity import COLUMNS, CONSTANTS, ENVIRONMENT, conditions, member, rows, task


class _Undo(Exception):
    pass


class Server:
    """A database that is sorted by a language, where no column says otherwise."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._db = self._runner.run(PostgresDatabase.open(url, name="cel", pool_size=1))
        for table in (task, member):
            self._runner.run(self._db.execute(CreateTable(table)))

    def selected(self, program: Program, stored: list[dict[str, Any]]) -> list[int]:
        """The numbers of the rows that the plan finds."""
        return self._runner.run(self._selected(program, stored))

    async def _selected(self, program: Program, stored: list[dict[str, Any]]) -> list[int]:
        condition = program.plan(COLUMNS, CONSTANTS)
        found: list[int] = []
        try:
            async with self._db.transaction() as tx:
                for number, row in enumerate(stored):
                    values = {**row, "labels": json.dumps(row["labels"]), "id": number}
                    members = values.pop("members")
                    await tx.execute(insert(task).values(values))
                    for user in members:
                        await tx.execute(insert(member).values(task=number, user=user))
                found = [row.id for row in await tx.fetch_all(select(task.c.id).where(condition).order_by(task.c.id))]
                raise _Undo
        except _Undo:
            return found

    def close(self) -> None:
        """Ends the connection."""
        self._runner.run(self._db.close())
        self._runner.close()


@pytest.fixture(scope="module")
def server(postgres_stock: Callable[[], PostgresStock]) -> Iterator[Server]:
    opened = Server(postgres_stock().empty("cel"))
    yield opened
    opened.close()


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(text=conditions, stored=st.lists(rows, min_size=1, max_size=4))
def test_postgresql_and_the_evaluator_choose_the_same_rows(
    server: Server, text: str, stored: list[dict[str, Any]]
) -> None:
    """AUTHZ-5: any expression, any rows: WHERE plan == test."""
    try:
        program = ENVIRONMENT.compile(text)
        found = server.selected(program, stored)
    except (CelTooComplex, CelUnplannable):
        assume(False)
    expected = [n for n, row in enumerate(stored) if program.test({**row, "resource": row, **CONSTANTS})]
    assert found == expected


@pytest.mark.parametrize(
    "text",
    [
        "title < 'b'",
        "title <= state",
        "title > 'Z' && title < 'é'",
        "labels.exists(x, x >= 'B')",
        "members.all(x, x < '😀')",
        "estimate == 9223372036854775807",
        "estimate + 1 > 0",
        "estimate - 1 < 0",
        "estimate * 2 > 5",
        "-estimate > 0",
        "estimate / -1 > 0",
        "estimate % 7 == 6",
        "size(title) == 1",
        "title.contains('') && title.startsWith('') && title.endsWith('')",
        "score >= 1.0 && score < 2.75",
        "title.contains('%') || title.contains('_') || title.endsWith('\\\\')",
    ],
)
def test_where_databases_differ_this_does_not(server: Server, text: str) -> None:
    """TASK-6: letters by code point, no wildcards, whole numbers to the last one, division as in CEL."""
    program = ENVIRONMENT.compile(text)
    texts = ["", "a", "A", "aB", "ab", "b", "B", "Z", "z", "é", "É", "ß", "ss", "😀", "\uffff", "%", "_", "\\", "-a"]
    numbers = [None, 0, 1, -1, 7, -7, 13, 2**62, 2**63 - 1, -(2**63), -(2**63) + 1, 2**53 + 1]
    stored = [
        {
            "state": texts[-1 - n],
            "title": text_,
            "priority": n % 4,
            "estimate": numbers[n % len(numbers)],
            "score": n / 4,
            "done": n % 2 == 0,
            "archived": None,
            "due_time": None,
            "create_time": CONSTANTS["now"],
            "labels": texts[n : n + 2],
            "members": texts[n // 2 : n],
        }
        for n, text_ in enumerate(texts)
    ]
    expected = [n for n, row in enumerate(stored) if program.test({**row, "resource": row, **CONSTANTS})]
    assert server.selected(program, stored) == expected

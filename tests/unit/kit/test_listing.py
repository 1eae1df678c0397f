"""Statements that are kept: one for all who ask alike, another where another is needed (AUTHZ-5)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select
from sqlalchemy.dialects import sqlite

from taskman_server.kit.cel import INT, STRING, TIMESTAMP, CelUnplannable, Environment, Program, list_of, record
from taskman_server.kit.db.statements import Statement
from taskman_server.kit.listing import BuiltStatements

NOTES = Table("notes", MetaData(), Column("owner", String), Column("size", Integer))
COLUMNS: Mapping[str, Any] = {"owner": NOTES.c.owner, "size": NOTES.c.size}
POLICIES = Environment(
    {
        "principal": record({"id": STRING, "roles": list_of(STRING), "level": INT}),
        "now": TIMESTAMP,
        "owner": STRING,
        "size": INT,
    }
)
DIALECT = sqlite.dialect(paramstyle="qmark")


def who(name: str, *roles: str, level: int = 1, year: int = 2024) -> dict[str, Any]:
    return {
        "principal": {"id": name, "roles": list(roles), "level": level},
        "now": datetime(year, 1, 1, tzinfo=UTC),
    }


class House:
    """A store with one list."""

    def __init__(self, size: int = 10) -> None:
        self.built = BuiltStatements(DIALECT, size)
        self.plans = 0

    def ask(self, program: Program, constants: Mapping[str, Any]) -> tuple[Statement, str, list[Any]]:
        found = self.built.find(program, [constants], {})
        if found is None:
            self.plans += 1
            outline = program.outline(COLUMNS, constants, "policy")
            self.built.keep(program, [select(NOTES).where(outline.condition)], [outline])
            found = self.built.find(program, [constants], {})
        assert found is not None
        (read,) = found
        text, values = read.statement.prepare(DIALECT).bind(read.values)
        return read.statement, text.partition("WHERE ")[2], list(values)


def test_one_statement_serves_all_people() -> None:
    house, program = House(), POLICIES.compile("owner == principal.id || size < principal.level")
    ann, ann_text, ann_values = house.ask(program, who("ann"))
    bob, _, bob_values = house.ask(program, who("bob", level=7))
    assert (ann is bob, house.plans) == (True, 1)
    assert ann_text == "notes.owner = ? OR notes.size < ?"
    assert (ann_values, bob_values) == (["ann", 1], ["bob", 7])


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ('"lead" in principal.roles || owner == "x"', who("ann", "lead")),
        ('principal.id == "bob" || owner == "x"', who("bob")),
        ("owner in principal.roles", who("ann", "b", "c")),
        ("size + principal.level > 3", who("ann", level=2)),
        ('now < timestamp("2024-06-01T00:00:00Z") && owner == "x"', who("ann", year=2025)),
        ("principal.roles.exists(role, owner.startsWith(role))", who("ann", "b", "c")),
        ("owner == principal.id", {"now": who("ann")["now"]}),
        ("owner == principal.id", who("a\0nn")),
    ],
)
def test_another_statement_where_the_constants_decide_the_text(text: str, other: dict[str, Any]) -> None:
    house, program, ann = House(), POLICIES.compile(text), who("ann", "b")
    first = house.ask(program, ann)
    try:
        second = house.ask(program, other)
    except CelUnplannable:
        second = None
    assert house.plans == 2
    fresh = House()
    if second is not None:
        assert second[1:] == fresh.ask(program, other)[1:]
    assert house.ask(program, ann) == first
    assert house.plans == 2


def test_a_part_that_fell_away_leaves_no_parameter() -> None:
    house, program = House(), POLICIES.compile('owner == principal.id || "lead" in principal.roles')
    _, text, values = house.ask(program, who("ann", "lead"))
    assert (text, values) == ("1 = 1", [])


def test_those_not_used_for_long_are_forgotten() -> None:
    house = House(size=2)
    one, two, three = (POLICIES.compile(f"size > {number} && owner == principal.id") for number in range(3))
    for program in (one, two, one, three, one):
        house.ask(program, who("ann"))
    assert house.plans == 3
    house.ask(two, who("ann"))
    assert house.plans == 4

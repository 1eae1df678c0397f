"""A planned expression selects exactly the rows that the evaluated one accepts (AUTHZ-5, TASK-6)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql

from taskman_server.kit.cel import (
    BOOL,
    DOUBLE,
    INT,
    MAP,
    STRING,
    TIMESTAMP,
    CelTooComplex,
    CelUnplannable,
    Collection,
    Environment,
    Program,
    list_of,
    nullable,
    record,
)
from taskman_server.kit.db.types import UtcTimestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
POSTGRESQL = postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
NOW = datetime(2024, 8, 1, 12, tzinfo=UTC)


metadata = MetaData()
task = Table(
    "task",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("state", String, nullable=False),
    Column("title", String),
    Column("priority", Integer, nullable=False),
    Column("estimate", BigInteger),
    Column("score", Double, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("archived", Boolean),
    Column("due_time", UtcTimestamp),
    Column("create_time", UtcTimestamp, nullable=False),
    Column("labels", String, nullable=False),
)
member = Table("member", metadata, Column("task", Integer), Column("user", String))

FIELDS = {
    "state": STRING,
    "title": nullable(STRING),
    "priority": INT,
    "estimate": nullable(INT),
    "score": DOUBLE,
    "done": BOOL,
    "archived": nullable(BOOL),
    "due_time": nullable(TIMESTAMP),
    "create_time": TIMESTAMP,
    "labels": list_of(STRING),
    "members": list_of(STRING),
}
ENVIRONMENT = Environment(
    {
        **FIELDS,
        "resource": record(FIELDS),
        "principal": record({"id": STRING, "team": nullable(STRING), "roles": list_of(STRING), "attributes": MAP}),
        "now": TIMESTAMP,
    }
)
COLUMNS: dict[str, Any] = {
    **{name: task.c[name] for name in FIELDS if name not in ("labels", "members")},
    "labels": Collection.of_json(task.c.labels),
    "members": Collection.of_rows(member.c.user, member.c.task == task.c.id),
}
COLUMNS |= {f"resource.{name}": column for name, column in COLUMNS.items()}
CONSTANTS: dict[str, Any] = {
    "principal": {
        "id": "u1",
        "team": None,
        "roles": ["a", "A", "%"],
        "attributes": {"level": 3, "since": NOW, "teams": ["u1", None, 7], "nothing": None},
    },
    "now": NOW,
}
OTHERS: dict[str, Any] = {
    "principal": {
        "id": "u2",
        "team": None,
        "roles": ["b"],
        "attributes": {"level": 2, "since": NOW + timedelta(days=1), "teams": [], "nothing": None},
    },
    "now": NOW - timedelta(days=1),
}

words = st.sampled_from(["", "a", "A", "ab", "aB", "%", "_", "a%", "b_", "é", "😀", "u1", "todo", "'", "\\"])
numbers = st.sampled_from([0, 1, -1, 2, 3, 7, -7, 2**31, 2**63 - 1, -(2**63)])
reals = st.sampled_from([0.0, -0.5, 1.0, 1.5, 3.0])
times = st.sampled_from([NOW, NOW - timedelta(microseconds=1), NOW + timedelta(days=1), EPOCH, EPOCH - timedelta(1)])
rows = st.fixed_dictionaries(
    {
        "state": words,
        "title": st.none() | words,
        "priority": st.integers(-8, 8),
        "estimate": st.none() | numbers,
        "score": reals,
        "done": st.booleans(),
        "archived": st.none() | st.booleans(),
        "due_time": st.none() | times,
        "create_time": times,
        "labels": st.lists(words, max_size=3),
        "members": st.lists(words, max_size=3),
    }
)


def quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def call(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(*parts).map(lambda values: template.format(*values))


def field(*names: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*names, *(f"resource.{name}" for name in names)])


texts = st.one_of(
    field("state", "title"),
    words.map(quoted),
    st.sampled_from(["principal.id", "principal.team", "principal.roles[0]", "principal.roles[9]"]),
    call("({} + {})", field("state", "title"), words.map(quoted)),
)
integers = st.one_of(
    field("priority", "estimate"),
    numbers.map(lambda n: f"({n})" if n > -(2**63) else "(-9223372036854775807 - 1)"),
    call("size({})", field("state", "title", "labels", "members")),
    call(
        "({} {} {})", field("priority", "estimate"), st.sampled_from("+-*/%"), st.sampled_from(["2", "0", "(-1)", "7"])
    ),
    call("({} {} {})", st.sampled_from(["2", "(-7)"]), st.sampled_from("+-*"), field("priority", "estimate")),
    call("(-{})", field("priority", "estimate")),
    st.just("(1 / 0)"),
)
moments = st.one_of(
    field("due_time", "create_time"),
    st.sampled_from(["now", "(now + duration('24h'))", "(now - duration('1us'))", "timestamp('1969-12-31T00:00:00Z')"]),
)
order = st.sampled_from(["<", "<=", ">", ">="])
equality = st.sampled_from(["==", "!="])
compare = order | equality
lists = st.one_of(
    field("labels", "members"),
    st.just("principal.roles"),
    st.lists(words.map(quoted), max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    st.just("[state, 'a']"),
)
inner = st.one_of(
    call("x {} {}", compare, texts),
    call("{} {} x", texts, equality),
    call("x.{}({})", st.sampled_from(["contains", "startsWith", "endsWith"]), texts),
    call("{}.{}(x)", texts, st.sampled_from(["contains", "startsWith", "endsWith"])),
    call("size(x) {} {}", compare, st.sampled_from(["0", "1", "size(title)"])),
    st.sampled_from(["done", "archived", "x in principal.roles", "x in labels", "x == 'a' || estimate > 1"]),
)
atoms = st.one_of(
    call("{} {} {}", texts, compare, texts),
    call("{} {} {}", integers, compare, integers),
    call("score {} {}", compare, st.sampled_from(["1.0", "(-0.5)", "0.0"])),
    call("{} {} {}", moments, compare, moments),
    field("done", "archived"),
    st.sampled_from(["true", "false", "1 / 0 == 1"]),
    call("{} {} null", field("title", "estimate", "archived", "due_time"), equality),
    call("null {} {}", equality, st.sampled_from(["title", "principal.team", "principal.attributes.nothing"])),
    call(
        "{} {} {}", field("done", "archived"), equality, st.sampled_from(["done", "archived", "true", "done == true"])
    ),
    call("{} in {}", texts, lists),
    call(
        "{} in {}",
        field("title", "state"),
        st.sampled_from(["[null, 'a']", "principal.attributes.teams", "[title, 'a']"]),
    ),
    call("{} in [1, 2, {}]", field("priority", "estimate"), st.sampled_from(["3", "7 / 1", "1 / 0"])),
    call("has(resource.{})", st.sampled_from(list(FIELDS))),
    call("{}.{}({})", texts, st.sampled_from(["contains", "startsWith", "endsWith"]), texts),
    call("{}.{}(x, {})", lists, st.sampled_from(["exists", "all"]), inner),
    call("principal.attributes.{}", st.sampled_from(["level > 2", "since == now", "level == 'x'", "none == 1"])),
    call("{} {} principal.attributes.level", field("priority", "estimate"), compare),
    call("({} ? {} : {}) {} {}", field("done", "archived"), texts, texts, compare, texts),
)
conditions = st.recursive(
    atoms,
    lambda sub: st.one_of(
        call("({} && {})", sub, sub),
        call("({} || {})", sub, sub),
        call("!({})", sub),
        call("(({}) == ({}))", sub, sub),
        call("({} ? {} : {})", sub, sub, sub),
    ),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as open_connection:
        yield open_connection
    engine.dispose()


def selected(connection: Connection, program: Program, stored: list[dict[str, Any]]) -> list[int]:
    condition = program.plan(COLUMNS, CONSTANTS)
    assert str(condition.compile(dialect=POSTGRESQL))
    found = rows_of(connection, condition, {}, stored)
    for made_for in (CONSTANTS, OTHERS):
        outline = program.outline(COLUMNS, made_for, "policy")
        values = outline.parameters(CONSTANTS)
        assert values is not None or made_for is OTHERS
        if values is not None:
            assert rows_of(connection, outline.condition, values, stored) == found
    return found


def rows_of(
    connection: Connection, condition: ColumnElement[bool], bound: dict[str, Any], stored: list[dict[str, Any]]
) -> list[int]:
    with connection.begin_nested() as transaction:
        for number, row in enumerate(stored):
            values = {**row, "labels": json.dumps(row["labels"]), "id": number}
            del values["members"]
            connection.execute(insert(task).values(values))
            for user in row["members"]:
                connection.execute(insert(member).values(task=number, user=user))
        found = connection.scalars(select(task.c.id).where(condition).order_by(task.c.id), bound).all()
        transaction.rollback()
    return list(found)


NOTHING: dict[str, Any] = {
    "state": "",
    "title": None,
    "priority": 0,
    "estimate": None,
    "score": 0.0,
    "done": True,
    "archived": None,
    "due_time": None,
    "create_time": NOW,
    "labels": [],
    "members": [],
}


@example("archived == (done ? archived : principal.attributes.level > 2)", [NOTHING])
@settings(
    max_examples=500,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(text=conditions, stored=st.lists(rows, min_size=1, max_size=4))
def test_the_database_and_the_evaluator_choose_the_same_rows(
    connection: Connection, text: str, stored: list[dict[str, Any]]
) -> None:
    """AUTHZ-5: any expression, any rows: WHERE plan == test; every plan compiles for PostgreSQL too.

    So it is with a plan that was made to be kept, for these constants or, where it says it fits, for others.
    """
    try:
        program = ENVIRONMENT.compile(text)
        found = selected(connection, program, stored)
    except (CelTooComplex, CelUnplannable):
        assume(False)
    expected = [n for n, row in enumerate(stored) if program.test({**row, "resource": row, **CONSTANTS})]
    assert found == expected

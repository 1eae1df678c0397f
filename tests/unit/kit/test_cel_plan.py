"""Plans: what SQL an expression becomes, and what is refused with its place (AUTHZ-5, TASK-6)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from taskman_server.kit.cel import (
    BOOL,
    INT,
    MAP,
    STRING,
    TIMESTAMP,
    CelUnplannable,
    Collection,
    Environment,
    list_of,
    nullable,
    record,
)
from taskman_server.kit.db.types import UtcTimestamp

NOON = datetime(2024, 8, 1, 12, tzinfo=UTC)
POSTGRESQL = postgresql.asyncpg.dialect()  # type: ignore[no-untyped-call]
SQLITE = sqlite.dialect()
metadata = MetaData()
task = Table(
    "task",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("title", String, nullable=False),
    Column("owner", String),
    Column("priority", Integer, nullable=False),
    Column("done", Boolean, nullable=False),
    Column("due_time", UtcTimestamp),
    Column("labels", String, nullable=False),
)
member = Table("member", metadata, Column("task", Integer), Column("user", String), Column("left", Boolean))
ENVIRONMENT = Environment(
    {
        "title": STRING,
        "owner": nullable(STRING),
        "priority": INT,
        "done": BOOL,
        "due_time": nullable(TIMESTAMP),
        "labels": list_of(STRING),
        "people": list_of(STRING),
        "members": list_of(STRING),
        "fields": MAP,
        "hidden": STRING,
        "principal": record({"id": STRING, "roles": list_of(STRING), "attributes": MAP}),
        "now": TIMESTAMP,
    }
)
COLUMNS: dict[str, Any] = {
    **{name: task.c[name] for name in ("title", "owner", "priority", "done", "due_time")},
    "labels": Collection.of_json(task.c.labels),
    "members": Collection.of_rows(member.c.user, member.c.task == task.c.id, member.c.left.is_(False)),
    "people": Collection.of_columns(task.c.owner, task.c.title),
    "fields": task.c.labels,
}
CONSTANTS: dict[str, Any] = {
    "principal": {"id": "u1", "roles": ["lead", "a'b"], "attributes": {"level": 3, "since": NOON}},
    "now": NOON,
}


def sql(text: str, dialect: Any = SQLITE, **constants: Any) -> tuple[str, list[Any]]:
    compiled = ENVIRONMENT.compile(text).plan(COLUMNS, {**CONSTANTS, **constants}).compile(dialect=dialect)
    return " ".join(str(compiled).split()), list(compiled.params.values())


@pytest.fixture(scope="module")
def rows() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        base: dict[str, Any] = {"owner": None, "priority": 1, "done": False, "due_time": None, "labels": "[]"}
        stored = [
            {**base, "id": 1, "title": "Fix 100%", "owner": "u1", "labels": '["fix", "ui"]'},
            {**base, "id": 2, "title": "fix 100_", "due_time": NOON - timedelta(microseconds=1), "done": True},
            {**base, "id": 3, "title": "a\\b'c", "owner": "u2", "due_time": NOON, "priority": 2**31 - 1},
        ]
        connection.execute(insert(task), stored)
        connection.execute(
            insert(member),
            [{"task": 1, "user": "u1", "left": False}, {"task": 2, "user": "u1", "left": True}],
        )
        yield connection
    engine.dispose()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ('title.startsWith("Fix")', [1]),
        ('title.contains("100%")', [1]),
        ('title.endsWith("_")', [2]),
        ("title.contains('') && title.startsWith('') && title.endsWith('')", [1, 2, 3]),
        (r"""title.contains("\\b'")""", [3]),
        ("title < 'a'", [1]),
        ("'fix' in labels", [1]),
        ("'Fix' in labels", []),
        ("labels.exists(l, l.startsWith('u') && !done)", [1]),
        ("labels.all(l, l == 'x')", [2, 3]),
        ("size(labels) == 0 && size(title) == 5", [3]),
        ("principal.id in members", [1]),
        ("principal.id in people", [1]),
        ("principal.id == owner || owner == null", [1, 2]),
        ("owner != 'u1'", [2, 3]),
        ("has(principal.id) && owner != null", [1, 3]),
        ("due_time < now", [2]),
        ("due_time <= now && now - duration('1h') < due_time", [2, 3]),
        ("due_time == principal.attributes.since", [3]),
        ("priority > 3000000000 || priority + 1 == 2147483648", [3]),
        ("priority < principal.attributes.level", [1, 2]),
        ("(done ? 'fix' : title) == 'fix'", [2]),
        ("done", [2]),
        ("!done && done == false", [1, 3]),
        ("principal.roles.exists(r, r == 'lead' && done)", [2]),
        ("title in principal.roles + ['fix 100_']", [2]),
        ("'admin' in principal.roles || priority == 1", [1, 2]),
        ("1 / 0 == 1 || done", [2]),
        ("!(1 / 0 == 1 || done)", []),
        ("!(owner < 'z')", []),
    ],
)
def test_a_plan_selects_the_rows(rows: Connection, text: str, ids: list[int]) -> None:
    """AUTHZ-5: run on a real SQLite; matching is case-sensitive and knows no wildcards."""
    condition = ENVIRONMENT.compile(text).plan(COLUMNS, CONSTANTS)
    assert list(rows.scalars(select(task.c.id).where(condition).order_by(task.c.id))) == ids


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRESQL])
def test_values_are_parameters_and_never_text(dialect: Any) -> None:
    """AUTHZ-5: nothing a user writes becomes SQL."""
    evil = "x'); DROP TABLE task;--"
    text = f'title == "{evil}" || owner in ["{evil}", "b"] || title.contains("{evil}") || "{evil}" in labels'
    written, values = sql(text, dialect)
    assert "DROP" not in written
    assert values.count(evil) == 4
    assert sql("owner == principal.id", dialect, principal={"id": evil})[1] == [evil]


def test_what_is_known_is_worked_out_before_the_query() -> None:
    """AUTHZ-5: constants are folded, and a decided condition asks nothing of the row."""
    assert sql("'lead' in principal.roles || title == 'x'") == ("1", [])
    assert sql("'admin' in principal.roles && title == 'x'") == ("0", [])
    assert sql("'admin' in principal.roles || done") == ("task.done", [])
    assert sql("due_time < now + duration('24h')")[1] == [NOON + timedelta(days=1)]
    assert sql("has(principal.id)") == ("1", [])


def test_a_plan_can_be_made_again_for_someone_else() -> None:
    """AUTHZ-5: one program, many principals."""
    program = ENVIRONMENT.compile("owner == principal.id && principal.attributes.level > 2")
    found = [
        program.plan(COLUMNS, {**CONSTANTS, "principal": {"id": who, "attributes": {"level": level}}})
        for who, level in (("u1", 3), ("u2", 3), ("u3", 1))
    ]
    assert [list(plan.compile(dialect=SQLITE).params.values()) for plan in found] == [["u1"], ["u2"], []]


def test_strings_are_ordered_by_code_point_whatever_the_collation() -> None:
    """TASK-6: PostgreSQL's collation would order otherwise than the evaluator."""
    assert 'COLLATE "C"' in sql("title < 'b'", POSTGRESQL)[0]
    assert "strpos(" in sql("title.contains('b')", POSTGRESQL)[0]
    assert "jsonb_array_elements_text" in sql("'b' in labels", POSTGRESQL)[0]


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("done && title.matches('^a')", 22, "`matches`"),
        ("done || due_time - duration('1h') < now", 18, "move the sum to the other side"),
        ("due_time.getHours() == 1", 18, "`getHours`"),
        ("fields.x == 'a'", 7, "map"),
        ("labels[0] == 'a'", 7, "`[]`"),
        ("labels == ['a']", 1, "whole list"),
        ("labels.exists_one(l, l == 'a')", 18, "only exists() and all()"),
        ("done && hidden == 'a'", 9, "`hidden` is not known"),
        ("string(priority) == '1'", 7, "`string`"),
        ("priority * priority == 4", 10, "whole number"),
        ("title == 'a\\u0000'", 7, "NUL"),
        ("size(people) == 1", 5, "size()"),
    ],
)
def test_what_sql_cannot_say_is_refused_with_its_place(text: str, column: int, words: str) -> None:
    """TASK-6: refused when it is asked or saved, never sifted afterwards."""
    with pytest.raises(CelUnplannable) as caught:
        ENVIRONMENT.compile(text).plan(COLUMNS, CONSTANTS)
    assert caught.value.position is not None
    assert caught.value.position.column == column
    assert words in str(caught.value)


def test_a_list_too_long_for_a_statement_is_refused() -> None:
    """TASK-6: the databases bound the parameters of one statement."""
    program = ENVIRONMENT.compile("owner in principal.roles")
    with pytest.raises(CelUnplannable, match="at most 1000"):
        program.plan(COLUMNS, {"principal": {"roles": [str(n) for n in range(1001)]}})
    assert program.plan(COLUMNS, {"principal": {"roles": [str(n) for n in range(1000)]}}) is not None


def nested(seed: str, around: str, times: int) -> str:
    for _ in range(times):
        seed = around.format(seed)
    return seed


@pytest.mark.parametrize(
    "text",
    [
        nested("done", "({} ? done : owner == null)", 25),
        nested("priority", "({} + 1)", 25) + " == 1",
        nested("title", "({} == 'a' ? title : owner)", 8) + " == 'b'",
        "principal.roles.exists(r, " + " || ".join(["title == r"] * 80) + ")",
        " || ".join(["title in principal.roles"] * 80),
    ],
)
@pytest.mark.timeout(30)
def test_a_plan_cannot_be_made_to_explode(text: str) -> None:
    """AUTHZ-3: CASE repeats its operands; the size of the query is bounded while it is built."""
    program = ENVIRONMENT.compile(text)
    with pytest.raises(CelUnplannable, match="too large"):
        program.plan(COLUMNS, {"principal": {"roles": [str(n) for n in range(100)]}})

"""The SQL that CEL needs and SQLAlchemy has no one word for, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import (
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Integer,
    String,
    and_,
    column,
    exists,
    false,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine

Predicate = Callable[[ColumnElement[Any]], ColumnElement[bool]]


class text_contains(GenericFunction[bool]):
    """Whether the first string holds the second; case-sensitive, no wildcards (LIKE is neither on SQLite)."""

    type = Boolean()
    inherit_cache = True
    name = "taskman_text_contains"


class text_order(GenericFunction[str]):
    """The string, ordered by code point as CEL does whatever the database's collation is."""

    type = String()
    inherit_cache = True
    name = "taskman_text_order"


class json_strings(GenericFunction[str]):
    """The rows of a JSON array of strings, in a column named `value`."""

    type = String()
    inherit_cache = True
    name = "taskman_json_strings"


class json_length(GenericFunction[int]):
    """The number of elements of a JSON array."""

    type = Integer()
    inherit_cache = True
    name = "taskman_json_length"


def _arguments(element: Any, compiler: SQLCompiler, **kw: Any) -> list[str]:
    return [compiler.process(argument, **kw) for argument in element.clauses]


@compiles(text_contains, "sqlite")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "(instr({}, {}) > 0)".format(*_arguments(element, compiler, **kw))


@compiles(text_contains, "postgresql")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "(strpos({}, {}) > 0)".format(*_arguments(element, compiler, **kw))


@compiles(text_order, "sqlite")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "(({}) COLLATE BINARY)".format(*_arguments(element, compiler, **kw))


@compiles(text_order, "postgresql")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return '(({}) COLLATE "C")'.format(*_arguments(element, compiler, **kw))


@compiles(json_strings, "sqlite")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "json_each({})".format(*_arguments(element, compiler, **kw))


@compiles(json_strings, "postgresql")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "jsonb_array_elements_text(CAST({} AS JSONB))".format(*_arguments(element, compiler, **kw))


@compiles(json_length, "sqlite")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "json_array_length({})".format(*_arguments(element, compiler, **kw))


@compiles(json_length, "postgresql")
def _(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    return "jsonb_array_length(CAST({} AS JSONB))".format(*_arguments(element, compiler, **kw))


def starts_with(text: ColumnElement[Any], prefix: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether `text` begins with `prefix`, case-sensitively."""
    return func.substr(text, 1, func.length(prefix)) == prefix


def ends_with(text: ColumnElement[Any], suffix: ColumnElement[Any]) -> ColumnElement[bool]:
    """Whether `text` ends with `suffix`, case-sensitively."""
    start = func.length(text) - func.length(suffix) + 1
    return and_(start >= 1, func.substr(text, start) == suffix)


@dataclass(frozen=True, slots=True)
class Collection:
    """A list-valued field that is not a column: rows of another table, or a JSON array.

    `contains` gives the condition that a value is an element, `exists` that some element meets a
    condition, `size` the number of elements; a part that is None makes the expression unplannable there.
    Elements are never null. `element` is the type that values are bound with.
    """

    contains: Predicate
    exists: Callable[[Predicate], ColumnElement[bool]] | None = None
    size: Callable[[], ColumnElement[int]] | None = None
    element: TypeEngine[Any] = field(default_factory=String)

    @classmethod
    def of_rows(cls, element: Column[Any], *link: ColumnElement[bool]) -> Collection:
        """The values of column `element` in the rows of its table for which `link` holds.

        `link` ties them to the outer row: `Collection.of_rows(member.c.user, member.c.task == task.c.id)`.
        """
        table = element.table

        def some(condition: Predicate) -> ColumnElement[bool]:
            return exists(select(1).select_from(table).where(*link, condition(element)).correlate_except(table))

        def size() -> ColumnElement[int]:
            count = select(func.count()).select_from(table).where(*link).correlate_except(table)
            return count.scalar_subquery()

        return cls(lambda value: some(lambda item: item == value), some, size, element.type)

    @classmethod
    def of_indexed_rows(
        cls, element: Column[Any], key: ColumnElement[Any], outer: ColumnElement[Any], *link: ColumnElement[bool]
    ) -> Collection:
        """The same for the rows whose `key` is `outer`, a column of the outer row, and for which `link` holds.

        Whether a given value is among them is asked of all outer rows at once, by an index on the value: a rare one
        costs no look at each row of a long table (30,000 tasks: 1 ms instead of 13).
        """
        rows = cls.of_rows(element, key == outer, *link)

        def contains(value: ColumnElement[Any]) -> ColumnElement[bool]:
            if not isinstance(value, BindParameter):
                return rows.contains(value)
            return outer.in_(select(key).where(*link, element == value))

        return replace(rows, contains=contains)

    @classmethod
    def of_json(cls, array: ColumnElement[Any]) -> Collection:
        """The strings of a column that holds a JSON array of strings and is never null."""

        def some(condition: Predicate) -> ColumnElement[bool]:
            rows = json_strings(array).table_valued(column("value", String()))
            return exists(select(1).select_from(rows).where(condition(rows.c.value)).correlate_except(rows))

        return cls(lambda value: some(lambda item: item == value), some, lambda: json_length(array))

    @classmethod
    def of_columns(cls, *columns: ColumnElement[Any]) -> Collection:
        """A list made of a few columns; an empty (NULL) column is no element."""

        def some(condition: Predicate) -> ColumnElement[bool]:
            return or_(false(), *(and_(item.is_not(None), condition(item)) for item in columns))

        return cls(lambda value: some(lambda item: item == value), some)


def bound(value: Any, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """`value` as a bind parameter of `type_`."""
    return literal(value, type_)

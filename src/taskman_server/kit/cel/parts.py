"""The pieces a plan is made of while the tree is walked, and the logic of three values over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import Boolean, ColumnElement, and_, bindparam, case, cast, false, not_, null, or_, true
from sqlalchemy.schema import Column
from sqlalchemy.sql.elements import BindParameter, Grouping
from sqlalchemy.types import TypeEngine

from taskman_server.kit.cel.sql import Collection
from taskman_server.kit.cel.tree import Node


@dataclass(slots=True)
class Trace:
    """What became of a value that hangs on the constants of a plan.

    Attributes:
        node: the part of the tree that gives it.
        looked: the SQL was made by looking at the value, so that another value may need other SQL.
        parameters: the names under which it stands in the SQL, to be given with each call.
        prefix: what these names begin with; no other part's do.
        local: the variables of the macros around it.
    """

    node: Node
    prefix: str
    local: Mapping[str, Any]
    looked: bool = False
    parameters: list[str] = field(default_factory=list)

    def parameter(self, type_: TypeEngine[Any]) -> BindParameter[Any]:
        """The value as a parameter of the statement."""
        name = f"{self.prefix}_{len(self.parameters)}"
        self.parameters.append(name)
        return bindparam(name, type_=type_)


@dataclass(frozen=True, slots=True)
class Folded:
    """A value known while planning; `failed` when working it out was an error.

    Of one with a `trace`, `failed`, `kind` and `null` may be asked freely; whoever reads `value` makes SQL for this
    value alone. `raw` is the value for those who do not let the SQL depend on it.
    """

    raw: Any
    failed: bool = False
    trace: Trace | None = None

    @property
    def value(self) -> Any:
        if self.trace is not None:
            self.trace.looked = True
        return self.raw

    @property
    def null(self) -> bool:
        return self.raw is None

    @property
    def kind(self) -> str:
        value = self.raw
        if isinstance(value, bool):
            return "bool"
        for type_, kind in _KINDS:
            if isinstance(value, type_):
                return kind
        return "other"


_KINDS: tuple[tuple[type, str], ...] = (
    (int, "int"),
    (float, "double"),
    (str, "string"),
    (datetime, "timestamp"),
    (timedelta, "duration"),
    (list, "list"),
    (dict, "map"),
)
FAILED = Folded(None, failed=True)


@dataclass(frozen=True, slots=True)
class Sql:
    """A part that the database works out. Its NULL means null if `nullable`, an error if `fallible`."""

    element: ColumnElement[Any]
    kind: str
    nullable: bool = False
    fallible: bool = False


@dataclass(frozen=True, slots=True)
class Items:
    """A list literal with parts that only the database knows."""

    items: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Bag:
    """A list that the database holds, and the kind of its elements."""

    collection: Collection
    kind: str


Scalar: TypeAlias = Folded | Sql
Part: TypeAlias = Folded | Sql | Items | Bag


def same_value(left: Folded, right: Folded) -> bool:
    """CEL's equality of known values: numbers by amount, different types are different."""
    numbers = {"int", "double"}
    if left.kind != right.kind and not {left.kind, right.kind} <= numbers:
        return False
    return bool(left.value == right.value)


def group(element: ColumnElement[Any]) -> ColumnElement[Any]:
    """`element` in brackets, unless it needs none."""
    return element if isinstance(element, (Column, BindParameter, Grouping)) else Grouping(element)


def failed(part: Part) -> bool:
    """Whether `part` is known to be an error."""
    return isinstance(part, Folded) and part.failed


def unsure(part: Scalar) -> bool:
    """Whether an operation on `part` can be an error, because the part is null or one itself."""
    return isinstance(part, Sql) and (part.nullable or part.fallible)


def null_bool() -> ColumnElement[bool]:
    """Neither true nor false: an error."""
    return cast(null(), Boolean)


def as_bool(element: ColumnElement[bool], fallible: bool = False) -> Sql:
    """A planned condition."""
    return Sql(element, "bool", fallible=fallible)


def unless_failed(part: Sql, value: bool) -> Scalar:
    """`value`, or an error where working out `part` was one."""
    if not part.fallible:
        return Folded(value)
    return as_bool(case((part.element.is_(None), null_bool()), else_=true() if value else false()), True)


def logic(conjunction: bool, left: Scalar, right: Scalar) -> Scalar:
    """`left && right` (conjunction) or `left || right`."""
    deciding = not conjunction
    sides = (left, right)
    if any(isinstance(side, Folded) and not side.failed and side.value is deciding for side in sides):
        return Folded(deciding)
    open_sides = [side for side in sides if not (isinstance(side, Folded) and not side.failed)]
    if not open_sides:
        return Folded(conjunction)
    if len(open_sides) == 1:
        return open_sides[0]
    if all(isinstance(side, Folded) for side in open_sides):
        return FAILED
    elements = [null_bool() if isinstance(side, Folded) else side.element for side in open_sides]
    fallible = any(isinstance(side, Folded) or side.fallible or side.nullable for side in open_sides)
    return as_bool(and_(*elements) if conjunction else or_(*elements), fallible)


def negate(part: Scalar) -> Scalar:
    """`!part`."""
    if isinstance(part, Folded):
        return part if part.failed else Folded(not part.value)
    return as_bool(not_(group(part.element)), part.nullable or part.fallible)

"""Lists and searches: policy, filter and place as one WHERE (AUTHZ-5, TASK-6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from cachebox import TTLCache
from sqlalchemy import (
    BigInteger,
    BinaryExpression,
    ColumnElement,
    Dialect,
    Double,
    Select,
    bindparam,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BooleanClauseList

from taskman_server.kit.cel import CelUnplannable, Outline, Program
from taskman_server.kit.db import Executor, Row, Statement
from taskman_server.kit.listing import Built, BuiltStatements
from taskman_server.kit.paging import BadPageToken, Keyset, SortKey, Value, page
from taskman_server.services.tasks.store.projects import PROJECT_FILTER, PROJECT_POLICY, PROJECT_SELECT
from taskman_server.services.tasks.store.rewrites import by_project, task_by_task
from taskman_server.services.tasks.store.search import SearchIndex
from taskman_server.services.tasks.store.tables import PROJECTS, TASKS, of_tenant
from taskman_server.services.tasks.store.tasks import TASK_FILTER, TASK_FOUND, TASK_POLICY

__all__ = ["ORDERS", "Found", "Lists", "PolicyUnplannable", "Query"]

ORDERS: Final[Mapping[str, ColumnElement[Any]]] = {
    "create_time": TASKS.c.create_time,
    "update_time": TASKS.c.update_time,
    "due_time": TASKS.c.due_time,
    "priority": TASKS.c.priority_order,
    "title": TASKS.c.title_order,
}
_KEYSETS: Final = {
    (name, descending): Keyset(
        SortKey(column, descending, nullable=name == "due_time"), SortKey(TASKS.c.seq, descending)
    )
    for name, column in ORDERS.items()
    for descending in (False, True)
}
_COUNTED_FOR: Final = 10.0  # seconds
_RARE: Final = 1000  # tasks that are read and sorted in some 3 ms
_BY_KEY: Final = Keyset(SortKey(PROJECTS.c.key), SortKey(PROJECTS.c.id))
_OF_PROJECTS: Final = of_tenant(PROJECTS)
_OF_TASKS: Final = of_tenant(TASKS)
_NEWEST: Final = Statement(select(func.max(TASKS.c.seq).label("seq")))

_Build: TypeAlias = Callable[[list[ColumnElement[bool]]], Select[Any]]


class PolicyUnplannable(Exception):
    """The caller's rights hang on a condition that SQL cannot say; the text says why."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a list asks for.

    Attributes:
        organization: the tenant.
        now: the time, for conditions.
        policy: the caller's rights; None for everything.
        constants: the values of `principal` and `now` in the policy.
        filter: the caller's filter.
        project: the id of the only project that counts.
        show_deleted: tasks in the trash too.
        order: a name of `ORDERS`.
        descending: the other way round.
    """

    organization: str
    now: datetime
    policy: Program | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)
    filter: Program | None = None
    project: str = ""
    show_deleted: bool = False
    order: str = "create_time"
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A page: its rows (of tasks `seq` and `version` alone), and the place that the next one begins after; None on the
    last page."""

    rows: Sequence[Row]
    place: Sequence[Value] | None


class Lists:
    """Pages of projects and tasks, read from the database or replica that is given.

    Every method raises CelUnplannable for the filter, PolicyUnplannable for the policy, and BadPageToken for a place
    that is not one of its own.
    """

    def __init__(self, index: SearchIndex, dialect: Dialect, *, counted: bool) -> None:
        """`counted`: the database knows how often a value occurs, and chooses the way to a page by that."""
        self._index = index
        self._counted = counted
        self._built = BuiltStatements(dialect)
        self._rare: TTLCache[tuple[Any, ...], bool] = TTLCache(1000, global_ttl=_COUNTED_FOR)

    async def projects(self, source: Executor, query: Query, size: int, after: Sequence[Value] | None) -> Found:
        """Projects in the order of their keys."""

        def build(where: list[ColumnElement[bool]]) -> list[Select[Any]]:
            return [_paged(PROJECT_SELECT.where(_OF_PROJECTS, *where), _BY_KEY, after)]

        given = {**_given(query), **_BY_KEY.parameters(after, "after"), "size": size + 1}
        (read,) = self._statements(("projects", _nulls(after)), query, PROJECT_POLICY, PROJECT_FILTER, build, given)
        return await _page(source, read, _BY_KEY, size)

    async def tasks(self, source: Executor, query: Query, size: int, after: Sequence[Value] | None) -> Found:
        """Tasks in the order asked for; those without a `due_time` come last in both directions."""
        keyset = _KEYSETS[query.order, query.descending]

        def build(where: list[ColumnElement[bool]]) -> Select[Any]:
            return _paged(TASK_FOUND.add_columns(ORDERS[query.order]).where(*where), keyset, after)

        given = {**_given(query), **keyset.parameters(after, "after"), "size": size + 1}
        key = ("tasks", query.order, query.descending, _nulls(after))
        return await _page(source, await self._led(source, key, query, build, given), keyset, size)

    async def count(self, source: Executor, query: Query) -> int:
        """How many tasks the same WHERE finds."""

        def build(where: list[ColumnElement[bool]]) -> Select[Any]:
            return _count(select(TASKS.c.seq).where(*where))

        read = await self._led(source, ("count",), query, build, _given(query))
        row = await source.fetch_one(read.statement, **read.values)
        return int(row.found) if row is not None else 0

    async def _led(
        self, source: Executor, key: tuple[Any, ...], query: Query, build: _Build, given: Mapping[str, Any]
    ) -> Built:
        """The statement, the way to its rows chosen where the database cannot: whether a label, or an assignee, is
        rare enough to begin with its tasks and to sort them. Otherwise the tasks are walked in the order of the list,
        and there is soon a page of them; of a rare label that would read all there are."""

        def ways(where: list[ColumnElement[bool]]) -> list[Select[Any]]:
            where = [by_project(each, arrays=self._counted) for each in where]
            if self._counted:
                return [build([_OF_TASKS, *_of_tasks(query), *where])]
            bags = list(_bags(where))
            each = [*_of_tasks(query), *map(task_by_task, where)]
            walked = build([_OF_TASKS, *each])
            if not bags:
                return [walked]
            # A tenant that SQLite does not look up in an index.
            found = build([_OF_TASKS.is_(true()), *[TASKS.c.seq.in_(bag) for bag in bags], *each])
            return [walked, found, _rarity(bags)]

        key = (*key, not query.project, query.show_deleted)
        walked, *others = self._statements(key, query, TASK_POLICY, TASK_FILTER, ways, given)
        if not others:
            return walked
        sorted_, rarity = others
        # Which way is faster is true for a while; what is found is the same either way.
        asked = (rarity.statement, *rarity.values.values())
        rare: bool | None = self._rare.get(asked)
        if rare is None:
            row = await source.fetch_one(rarity.statement, **rarity.values)
            assert row is not None, "it counts"
            newest, *found = row
            # Reading and sorting the n that have it takes as long as walking N/n for each of a page's, at n² = N.
            rare = self._rare[asked] = any(n < _RARE and n**2 <= (newest or 0) for n in found)
        return sorted_ if rare else walked

    async def search(
        self, source: Executor, asked: Sequence[str], query: Query, size: int, after: Sequence[Value] | None
    ) -> Found:
        """Tasks in which all phrases occur, best first.

        A score depends on all texts in the index, so it moves with every write. A page therefore goes on after the
        last task as it scores now, and leaves out tasks that were made after the first page was.
        """

        def build(where: list[ColumnElement[bool]]) -> list[Select[Any]]:
            where = [by_project(each, arrays=self._counted) for each in where]
            if not self._counted:
                where = [*map(task_by_task, where)]
            found = self._index.find(len(asked))
            score = found.score.label("score")
            statement = (
                TASK_FOUND.add_columns(score)
                .select_from(found.source.join(TASKS, TASKS.c.seq == found.seq))
                .where(found.condition, _OF_TASKS, *_of_tasks(query), *where)
            )
            if after is not None:
                last = bindparam("last", type_=BigInteger)
                now = func.coalesce(self._index.score_of(len(asked), last), bindparam("then", type_=Double))
                statement = statement.where(
                    TASKS.c.seq <= bindparam("newest", type_=BigInteger),
                    or_(found.score > now, (found.score == now) & (TASKS.c.seq > last)),
                )
            return [statement.order_by(score, TASKS.c.seq).limit(bindparam("size", type_=BigInteger))]

        given = {**self._index.parameters(asked), **_given(query), "size": size + 1}
        if after is None:
            newest = await _newest(source)
        else:
            then, last, newest = _place(after)
            given |= {"then": then, "last": last, "newest": newest}
        key = ("search", len(asked), after is None, not query.project, query.show_deleted)
        (read,) = self._statements(key, query, TASK_POLICY, TASK_FILTER, build, given)
        rows = await source.fetch_all(read.statement, **read.values)
        shown, more = page(rows, size)
        return Found(shown, [shown[-1].score, shown[-1].seq, newest] if more else None)

    def _statements(
        self,
        key: tuple[Any, ...],
        query: Query,
        policy: Mapping[str, Any],
        filters: Mapping[str, Any],
        build: Callable[[list[ColumnElement[bool]]], Sequence[Select[Any]]],
        given: Mapping[str, Any],
    ) -> Sequence[Built]:
        """The statements for a query: those that were built before, if they are the same.

        Args:
            key: what their texts hang on beside policy, filter and their constants.
            query: what is asked for.
            policy: the columns that a policy can name.
            filters: the columns that a filter can name.
            build: makes the statements with these conditions in the WHERE.
            given: the values of their other parameters.
        """
        constants: list[Mapping[str, Any]] = []
        if query.policy is not None:
            constants.append(query.constants)
        if query.filter is not None:
            constants.append({"now": query.now})
        whole = (key, query.policy, query.filter)
        built = self._built.find(whole, constants, given)
        if built is not None:
            return built
        outlines: list[Outline] = []
        if query.policy is not None:
            try:
                outlines.append(query.policy.outline(policy, query.constants, "policy"))
            except CelUnplannable as error:
                raise PolicyUnplannable(str(error)) from None
        if query.filter is not None:
            outlines.append(query.filter.outline(filters, {"now": query.now}, "filter"))
        # What was asked for sorts out more, and more cheaply, than what is allowed: SQLite looks in this order.
        self._built.keep(whole, build([each.condition for each in reversed(outlines)]), outlines)
        built = self._built.find(whole, constants, given)
        assert built is not None, "a statement fits the constants that it was built for"
        return built


def _count(rows: Select[Any]) -> Select[Any]:
    return select(func.count().label("found")).select_from(rows.subquery())


def _rarity(bags: Sequence[Select[Any]]) -> Select[Any]:
    """How many tasks there are, by the last one's number, and how many are in each of the bags, up to `_RARE`."""
    found = [_count(rows.limit(_RARE)).scalar_subquery().label(f"bag_{n}") for n, rows in enumerate(bags)]
    return select(select(func.max(TASKS.c.seq)).scalar_subquery().label("newest"), *found)


def _bags(where: Sequence[ColumnElement[bool]]) -> Iterator[Select[Any]]:
    """The labels' or assignees' rows that a task must be among to meet all conditions."""
    for condition in where:
        every = isinstance(condition, BooleanClauseList) and condition.operator is operators.and_
        for part in condition.get_children() if every else (condition,):
            if isinstance(part, BinaryExpression) and part.operator is operators.in_op and part.left is TASKS.c.seq:
                yield part.right.element


def _of_tasks(query: Query) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if query.project:
        where.append(TASKS.c.project == bindparam("project", type_=TASKS.c.project.type))
    if not query.show_deleted:
        where.append(TASKS.c.delete_time.is_(None))
    return where


def _given(query: Query) -> dict[str, Any]:
    return {"organization": query.organization, "project": query.project}


async def _newest(source: Executor) -> int:
    row = await source.fetch_one(_NEWEST)
    return int(row.seq or 0) if row is not None else 0


def _nulls(after: Sequence[Value] | None) -> tuple[bool, ...] | None:
    """What the text of a place hangs on."""
    return None if after is None else tuple([value is None for value in after])


def _paged(statement: Select[Any], keyset: Keyset, after: Sequence[Value] | None) -> Select[Any]:
    if after is not None:
        statement = statement.where(keyset.after(after, "after"))
    return statement.order_by(*keyset.order_by()).limit(bindparam("size", type_=BigInteger))


async def _page(source: Executor, read: Built, keyset: Keyset, size: int) -> Found:
    rows = await source.fetch_all(read.statement, **read.values)
    shown, more = page(rows, size)
    return Found(shown, keyset.values(shown[-1]) if more else None)


def _place(values: Sequence[Value]) -> tuple[float, int, int]:
    if len(values) != 3:
        raise BadPageToken("other_query")
    score, last, newest = values
    if not isinstance(score, (int, float)) or not isinstance(last, int) or not isinstance(newest, int):
        raise BadPageToken("other_query")
    return float(score), last, newest

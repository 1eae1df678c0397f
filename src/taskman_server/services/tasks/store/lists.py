"""Lists and searches: policy, filter and place as one WHERE (AUTHZ-5, TASK-6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    BinaryExpression,
    ColumnElement,
    Double,
    FromClause,
    Select,
    bindparam,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BooleanClauseList

from taskman_server.kit.cel import CelUnplannable, Program
from taskman_server.kit.db import Executor, Row
from taskman_server.kit.paging import BadPageToken, Keyset, SortKey, Value, page
from taskman_server.services.tasks.store.projects import PROJECT_FILTER, PROJECT_SELECT, project_policy
from taskman_server.services.tasks.store.search import SearchIndex
from taskman_server.services.tasks.store.tables import PROJECTS, TASKS
from taskman_server.services.tasks.store.tasks import TASK_SELECT, filter_columns, policy_columns

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
_RARE: Final = 1000  # tasks that are read and sorted in some 3 ms
_BY_KEY: Final = Keyset(SortKey(PROJECTS.c.key), SortKey(PROJECTS.c.id))


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
    """A page: its rows, and the place that the next one begins after; None on the last page."""

    rows: Sequence[Row]
    place: Sequence[Value] | None


class Lists:
    """Pages of projects and tasks, read from the database or replica that is given.

    Every method raises CelUnplannable for the filter, PolicyUnplannable for the policy, and BadPageToken for a place
    that is not one of its own.
    """

    def __init__(self, index: SearchIndex, *, counted: bool) -> None:
        """`counted`: the database knows how often a value occurs, and chooses the way to a page by that."""
        self._index = index
        self._counted = counted

    async def projects(self, source: Executor, query: Query, size: int, after: Sequence[Value] | None) -> Found:
        """Projects in the order of their keys."""
        where = _conditions(query, PROJECTS, project_policy(query.organization), PROJECT_FILTER)
        return await _page(source, PROJECT_SELECT.where(*where), _BY_KEY, size, after)

    async def tasks(self, source: Executor, query: Query, size: int, after: Sequence[Value] | None) -> Found:
        """Tasks in the order asked for; those without a `due_time` come last in both directions."""
        statement = TASK_SELECT.where(*await self._led(source, _task_conditions(query)))
        if query.order in ("priority", "title"):
            statement = statement.add_columns(ORDERS[query.order])
        return await _page(source, statement, _KEYSETS[query.order, query.descending], size, after)

    async def count(self, source: Executor, query: Query) -> int:
        """How many tasks the same WHERE finds."""
        where = await self._led(source, _task_conditions(query))
        row = await source.fetch_one(_count(select(TASKS.c.seq).where(*where)))
        return int(row.found) if row is not None else 0

    async def _led(self, source: Executor, where: Sequence[ColumnElement[bool]]) -> Sequence[ColumnElement[bool]]:
        """The same conditions, the way to them chosen where the database cannot: whether a label, or an assignee, is
        rare enough to begin with its tasks and to sort them. Otherwise the tasks are walked in the order of the list,
        and there is soon a page of them; of a rare label that would read all there are."""
        if not self._counted:
            for rows in _bags(where):
                # Reading and sorting the n that have it takes as long as walking N/n for each of a page's, at n² = N.
                row = await source.fetch_one(
                    _count(rows.limit(bindparam(None, _RARE))).add_columns(
                        select(func.max(TASKS.c.seq)).scalar_subquery().label("newest")
                    )
                )
                if row is not None and row.found < _RARE and row.found**2 <= (row.newest or 0):
                    tenant, *others = where
                    return [tenant.is_(true()), *others]  # which SQLite does not look up in an index
        return where

    async def search(
        self, source: Executor, asked: Sequence[str], query: Query, size: int, after: Sequence[Value] | None
    ) -> Found:
        """Tasks in which all phrases occur, best first.

        A score depends on all texts in the index, so it moves with every write. A page therefore goes on after the
        last task as it scores now, and leaves out tasks that were made after the first page was.
        """
        found = self._index.find(asked)
        score = found.score.label("score")
        statement = (
            TASK_SELECT.add_columns(score)
            .select_from(found.source.join(TASKS, TASKS.c.seq == found.seq))
            .where(found.condition, *_task_conditions(query))
        )
        if after is None:
            newest = await _newest(source)
        else:
            then, last, newest = _place(after)
            now = func.coalesce(self._index.score_of(asked, last), literal(then, Double()))
            statement = statement.where(
                TASKS.c.seq <= bindparam(None, newest, BigInteger),
                or_(found.score > now, (found.score == now) & (TASKS.c.seq > bindparam(None, last, BigInteger))),
            )
        rows = await source.fetch_all(statement.order_by(score, TASKS.c.seq).limit(bindparam(None, size + 1)))
        shown, more = page(rows, size)
        return Found(shown, [shown[-1].score, shown[-1].seq, newest] if more else None)


def _count(rows: Select[Any]) -> Select[Any]:
    return select(func.count().label("found")).select_from(rows.subquery())


def _bags(where: Sequence[ColumnElement[bool]]) -> Iterator[Select[Any]]:
    """The labels' or assignees' rows that a task must be among to meet all conditions."""
    for condition in where:
        every = isinstance(condition, BooleanClauseList) and condition.operator is operators.and_
        for part in condition.get_children() if every else (condition,):
            if isinstance(part, BinaryExpression) and part.operator is operators.in_op and part.left is TASKS.c.seq:
                yield part.right.element


async def _newest(source: Executor) -> int:
    row = await source.fetch_one(select(func.max(TASKS.c.seq).label("seq")))
    return int(row.seq or 0) if row is not None else 0


async def _page(
    source: Executor, statement: Select[Any], keyset: Keyset, size: int, after: Sequence[Value] | None
) -> Found:
    if after is not None:
        statement = statement.where(keyset.after(after))
    rows = await source.fetch_all(statement.order_by(*keyset.order_by()).limit(bindparam(None, size + 1)))
    shown, more = page(rows, size)
    return Found(shown, keyset.values(shown[-1]) if more else None)


def _task_conditions(query: Query) -> list[ColumnElement[bool]]:
    tenant = query.organization
    where = _conditions(query, TASKS, policy_columns(tenant), filter_columns(tenant))
    if query.project:
        where.append(TASKS.c.project == bindparam(None, query.project, TASKS.c.project.type))
    if not query.show_deleted:
        where.append(TASKS.c.delete_time.is_(None))
    return where


def _conditions(
    query: Query, table: FromClause, policy: Mapping[str, Any], filters: Mapping[str, Any]
) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = [
        table.c.organization == bindparam(None, query.organization, table.c.organization.type)
    ]
    if query.policy is not None:
        try:
            where.append(query.policy.plan(policy, query.constants))
        except CelUnplannable as error:
            raise PolicyUnplannable(str(error)) from None
    if query.filter is not None:
        where.append(query.filter.plan(filters, {"now": query.now}))
    return where


def _place(values: Sequence[Value]) -> tuple[float, int, int]:
    if len(values) != 3:
        raise BadPageToken("other_query")
    score, last, newest = values
    if not isinstance(score, (int, float)) or not isinstance(last, int) or not isinstance(newest, int):
        raise BadPageToken("other_query")
    return float(score), last, newest

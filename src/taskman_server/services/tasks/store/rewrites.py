"""Conditions on tasks, said in another way that a database answers sooner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from sqlalchemy import ARRAY, BinaryExpression, ColumnElement, any_, func, select
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import Grouping

from taskman_server.services.tasks.store.tables import PROJECTS, TASKS, of_tenant
from taskman_server.services.tasks.store.tasks import TASK_POLICY

__all__ = ["by_project", "task_by_task"]

_VISIBILITY: Final = TASK_POLICY["resource.visibility"]


def by_project(condition: ColumnElement[bool], *, arrays: bool) -> ColumnElement[bool]:
    """The same condition, with all projects of a visibility looked up at once, and not the visibility of the project of
    each task that is looked at: half the time of a list on PostgreSQL, a fifth less on SQLite.

    `arrays`: the database has them; then the projects that somebody is a member of are one too. PostgreSQL reckons an
    IN again for each row that it joins with, and may rather read a whole table; it reckons an array once.
    """

    def said(part: BinaryExpression[Any]) -> ColumnElement[bool] | None:
        left = part.left.element if isinstance(part.left, Grouping) else part.left
        if left is _VISIBILITY and part.operator is operators.eq:
            projects: Any = select(PROJECTS.c.id).where(of_tenant(PROJECTS), PROJECTS.c.visibility == part.right)
        elif arrays and left is TASKS.c.project and part.operator is operators.in_op and hasattr(part.right, "element"):
            projects = part.right.element
        else:
            return None
        if not arrays:
            return TASKS.c.project.in_(projects)
        array = func.array(projects.scalar_subquery(), type_=ARRAY(PROJECTS.c.id.type))
        return TASKS.c.project == any_(array)

    return _rewritten(condition, said)


def task_by_task(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """The same condition, with a task's labels and assignees looked up for each task that is looked at. SQLite would
    make a copy of all tasks with the label first, for every list."""

    def said(part: BinaryExpression[Any]) -> ColumnElement[bool] | None:
        if part.left is not TASKS.c.seq or part.operator not in (operators.in_op, operators.not_in_op):
            return None
        rows: Any = part.right.element
        (task,) = rows.selected_columns
        one: ColumnElement[bool] = rows.where(task == TASKS.c.seq).correlate(TASKS).exists()
        return one if part.operator is operators.in_op else ~one

    return _rewritten(condition, said)


def _rewritten(
    condition: ColumnElement[bool], said: Callable[[BinaryExpression[Any]], ColumnElement[bool] | None]
) -> ColumnElement[bool]:
    def replace(part: Any, **_: Any) -> Any:
        return said(part) if isinstance(part, BinaryExpression) else None

    replaced: Any = visitors.replacement_traverse(condition, {}, replace)  # type: ignore[call-overload]
    return cast("ColumnElement[bool]", replaced)
